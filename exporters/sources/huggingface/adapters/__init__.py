"""What a family needs beyond transformers' attention interface: one small declared adapter per family."""

"""torch's flex_attention: its modifier functions, read as a spec."""

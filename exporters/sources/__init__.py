"""Where a model comes from: a zoo name, a factory, a Hugging Face folder, a live module."""

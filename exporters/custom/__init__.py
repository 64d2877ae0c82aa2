"""A user's own torch operators: what they become in ONNX, and how that travels through an export."""

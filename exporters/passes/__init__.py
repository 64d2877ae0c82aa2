"""Graph passes, built on onnx-ir's pass classes: each says whether it modified the model."""

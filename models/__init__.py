"""Attention variants and reference models in PyTorch."""

if __name__ != "edgeattn.models":
    raise ImportError(f"this folder is the package edgeattn.models, not {__name__!r}: import edgeattn.models")

"""Attention variants and reference models in PyTorch. `create("multi_head", embed_dim=64, num_heads=4)` makes one."""

if __name__ != "edgeattn.models":
    raise ImportError(f"this folder is the package edgeattn.models, not {__name__!r}: import edgeattn.models")

from edgeattn.models.registry import create, example, list_variants, variant_paper, variant_summary

__all__ = ["create", "example", "list_variants", "variant_paper", "variant_summary"]

"""Decoders in OpenVINO's own form, with a cache that the runtime keeps and attention that is fused with it."""

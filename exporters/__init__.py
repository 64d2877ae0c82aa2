"""From a PyTorch model to a bundle: sources, capture, passes, lowerings."""

if __name__ != "edgeattn.exporters":
    raise ImportError(f"this folder is the package edgeattn.exporters, not {__name__!r}: import edgeattn.exporters")

"""Runtimes: one contract for every engine that can run a bundle. numpy and the engine only, never torch."""

if __name__ != "edgeattn.runtimes":
    raise ImportError(f"this folder is the package edgeattn.runtimes, not {__name__!r}: import edgeattn.runtimes")

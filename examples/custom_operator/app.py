"""On the device, with numpy and onnxruntime: `python app.py BUNDLE [LIBRARY]`. The same file, with and without the kernel."""

from __future__ import annotations

import sys

import numpy as np

import edgeattn


def main(bundle: str, *libraries: str) -> None:
    """Run once, and say what ran the operator."""
    x = np.random.default_rng(0).standard_normal((1, 7, 64), dtype=np.float32)
    with edgeattn.load(bundle, custom_ops=libraries) as session:
        hidden = session.run({"x": x})["hidden"]
        print(session.effective.details["custom operators"])
        print("hidden", hidden.shape, "mean of squares", f"{np.square(hidden).mean():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

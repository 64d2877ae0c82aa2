"""What a runtime does with torch's own export of a variant, edgeattn left out: right, wrong without a word, or an error."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from edgeattn.errors import EdgeAttnError
from edgeattn.exporters.capture import named_outputs
from edgeattn.exporters.sources.base import Source
from edgeattn.parity import compare_arrays
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions

LENGTHS = (1, 7, 33, 128, 333)
OPSETS = (18, 23)


def bare_export(source: Source, opset: int, file: Path) -> None:
    """torch.onnx.export of the source's module with attention in torch's own operators."""
    example = source.sample(source.capture_sizes(), torch.Generator().manual_seed(0))
    symbols = {name: torch.export.Dim(name, min=dim.least, max=dim.limit) for name, dim in source.dimensions.items()}
    shapes = {name: {axis: symbols[s] for axis, s in source.dynamic.get(name, {}).items()} or None for name in source.inputs}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _plain_attention():
        warnings.simplefilter("ignore")
        program = torch.export.export(source.module, (), dict(example), dynamic_shapes=shapes, strict=False)
        torch.onnx.export(program, f=str(file), dynamo=True, opset_version=opset, verbose=False, external_data=False)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """`attention` as it is in eager mode: torch's scaled_dot_product_attention where that can say it, else its formula."""
    asked = torch.compiler.is_exporting
    torch.compiler.is_exporting = lambda: False
    try:
        yield
    finally:
        torch.compiler.is_exporting = asked


def bare_verdicts(source: Source, runtimes: Sequence[str]) -> dict[str, str]:
    """Per runtime `right`, `WRONG ...` or `error ...`, over OPSETS and LENGTHS."""
    found: dict[str, list[str]] = {runtime: [] for runtime in runtimes}
    for opset in OPSETS:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            try:
                bare_export(source, opset, file)
            except Exception as error:  # noqa: BLE001 - whatever torch raises is what its user sees
                for verdicts in found.values():
                    verdicts.append(f"error at opset {opset}: torch cannot export it ({type(error).__name__})")
                continue
            for runtime, verdicts in found.items():
                verdicts.append(_run(source, runtime, file, opset))
    return {
        runtime: "; ".join(v for v in dict.fromkeys(verdicts) if v != "right") or "right" for runtime, verdicts in found.items()
    }


def _run(source: Source, runtime: str, file: Path, opset: int) -> str:
    engine = registry.get(runtime)
    try:
        with engine.load(file, LoadOptions(device=engine.devices()[0])) as session:
            for length in LENGTHS:
                sizes = {d.name: d.bounded(2 if d.batch else length) for d in source.dimensions.values()}
                inputs = source.sample(sizes, torch.Generator().manual_seed(length))
                with torch.no_grad():
                    expected = list(named_outputs(source.module(**inputs)).values())
                got = session.run({name: tensor.numpy() for name, tensor in inputs.items()})
                for have, want in zip(got.values(), expected, strict=True):
                    result = compare_arrays("out", have, want.numpy().astype(np.float32), "activation")
                    if not result.passed:
                        return f"WRONG at opset {opset}, length {length}: off by {result.max_abs:.2g}"
    except EdgeAttnError as error:
        return f"error at opset {opset}: {str(error).splitlines()[0][:120]}"
    return "right"

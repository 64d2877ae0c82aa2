"""An ONNX file that somebody else exported: its own run is the truth, and its attention is raised from the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import torch

from edgeattn.errors import EdgeAttnError, SourceError
from edgeattn.exporters.passes.outputs import separate_outputs
from edgeattn.exporters.passes.pipeline import clean
from edgeattn.exporters.raising.parts import interpreter
from edgeattn.exporters.raising.pipeline import raise_model
from edgeattn.exporters.raising.prepare import prepare
from edgeattn.exporters.sources.base import Dimension, Sampler, Source
from edgeattn.exporters.sources.onnx_check import open_onnx
from edgeattn.exporters.sources.onnx_inputs import Input, dimensions, read_inputs
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions, Runtime, Session

_TRIED = (8, 16, 4, 32, 2, 64, 1, 128, 512)
"""Sizes of an example, in the order in which they are tried."""
_LARGEST = 512
"""Up to here a dimension without a declared limit is tried for one: what parity is proven up to."""
_GRID = ((2, 7), (3, 11), (5, 4))
"""Batch and length of the runs that name shapes; within what every model takes."""


class OnnxFile(torch.nn.Module):
    """A file as a module: called with tensors by name, it runs the file as it is."""

    def __init__(self, path: Path, runtime: Runtime) -> None:
        super().__init__()
        self.path, self.runtime = path, runtime
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """The loaded file. Raises RuntimeRunError where the runtime refuses it."""
        if self._session is None:
            self._session = self.runtime.load(self.path, LoadOptions(device="cpu", quiet=True))
        return self._session

    def release(self) -> None:
        """Free the weights until the next call."""
        if self._session is not None:
            self._session.close()
        self._session = None

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every output by name. Raises RuntimeRunError where the runtime fails."""
        found = self.session.run({name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(array) for name, array in found.items()}


def from_onnx(path: Path) -> Source:
    """The source of an ONNX file, run by ONNX Runtime as it stands, or by onnx's own evaluator where that cannot.

    Raises:
        SourceError: a file that cannot be used (see `open_onnx`), or that runs at no size that was tried.
        RaisingError: an operator that has no canonical form.
    """
    model = open_onnx(path)
    inputs = read_inputs(model)
    sampler = _sampler(inputs)
    module, sizes = _running(path, sampler, dimensions(inputs))
    bounded = {name: _bounded(module, sampler, d, sizes) for name, d in dimensions(inputs).items()}
    effective = module.session.effective

    def capture(outputs: Sequence[str]) -> ir.Model:
        module.release()  # its weights need not be in memory beside those that are being written
        return _canonical(model, inputs, bounded, outputs)

    return Source(
        name=path.stem,
        kind="onnx",
        module=module,
        inputs=sampler(sizes, torch.Generator().manual_seed(0)),
        dynamic={each.name: axes for each in inputs if (axes := _axes(each))},
        dimensions=bounded,
        sampler=sampler,
        graph=capture,
        reference=f"{effective.runtime} {effective.version}",
        provenance={"file": path.name, **_producer(model), "reference": f"{effective.runtime} {effective.version}"},
    )


def raised(model: ir.Model) -> ir.Model:
    """The canonical model of one that `open_onnx` gave, for looking at it: its sizes are not tried. Raises as `from_onnx`."""
    inputs = read_inputs(model)
    return _canonical(model, inputs, dimensions(inputs), [value.name or "" for value in model.graph.outputs])


def _canonical(model: ir.Model, inputs: Sequence[Input], bounds: Mapping[str, Dimension], outputs: Sequence[str]) -> ir.Model:
    draw = _sampler(inputs)
    grid = [
        {d.name: d.bounded(batch if d.batch else length + i) for i, d in enumerate(bounds.values())} for batch, length in _GRID
    ]
    prepare(model, lambda sizes: {n: t.numpy() for n, t in draw(sizes, torch.Generator().manual_seed(0)).items()}, grid)
    raise_model(model)
    separate_outputs(model, outputs)
    clean(model)
    return model


def _running(path: Path, sampler: Sampler, free: Mapping[str, Dimension]) -> tuple[OnnxFile, dict[str, int]]:
    """The file on the runtime that files are made for, and sizes it runs at; where that cannot, on the standard's evaluator."""
    reasons = []
    for runtime in dict.fromkeys((interpreter(), registry.get("reference"))):
        try:
            module = OnnxFile(path, runtime)
            return module, _example(module, sampler, free)
        except EdgeAttnError as error:
            reasons.append(str(error))
    where = f" with {', '.join(free)} between {min(_TRIED)} and {max(_TRIED)}" if free else ""
    raise SourceError(
        f"{path} does not run{where}: {reasons[0]}; "
        "if some of its dimensions must be equal, give them one name (dim_param) in the file"
    )


def _sampler(inputs: Sequence[Input]) -> Sampler:
    def draw(sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {each.name: each.draw(sizes, generator) for each in inputs}

    return draw


def _example(module: OnnxFile, sampler: Sampler, free: Mapping[str, Dimension]) -> dict[str, int]:
    """Sizes that the file runs at. Raises the first of the runtime's errors where there are none."""
    first: EdgeAttnError | None = None
    for size in _TRIED if free else _TRIED[:1]:
        sizes = {name: 2 if dimension.batch else size for name, dimension in free.items()}
        try:
            module(**sampler(sizes, torch.Generator().manual_seed(0)))
        except EdgeAttnError as error:
            first = first or error
        else:
            return sizes
    assert first is not None
    raise first


def _bounded(module: OnnxFile, sampler: Sampler, dimension: Dimension, sizes: Mapping[str, int]) -> Dimension:
    """The dimension with the smallest and the largest size that the file runs at, as far as they are tried."""
    if dimension.batch:
        return dimension

    def runs(size: int) -> bool:
        try:
            module(**sampler({**sizes, dimension.name: size}, torch.Generator().manual_seed(0)))
        except EdgeAttnError:
            return False
        return True

    known = sizes[dimension.name]
    limit = None if runs(_LARGEST) else _edge(runs, known, _LARGEST)
    least = 1 if known == 1 or runs(1) else _edge(runs, known, 1)
    return replace(dimension, limit=limit, least=least)


def _edge(runs: Callable[[int], bool], works: int, fails: int) -> int:
    """The last size that works on the way to one that fails."""
    while abs(works - fails) > 1:
        middle = (works + fails) // 2
        works, fails = (middle, fails) if runs(middle) else (works, middle)
    return works


def _axes(each: Input) -> dict[int, str]:
    return {axis: dim for axis, dim in enumerate(each.dims) if isinstance(dim, str)}


def _producer(model: ir.Model) -> dict[str, str]:
    made_by = " ".join(part for part in (model.producer_name, model.producer_version) if part)
    return {"opset": str(model.graph.opset_imports[""]), **({"producer": made_by} if made_by else {})}

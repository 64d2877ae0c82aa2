"""How much memory a model will need on a device, before anything of it is exported.

The model is captured as `export` would capture it, which runs nothing; what is counted follows from that graph. Counted:

- weights: what the bundle's weight file would hold, a weight that several layers share once (`edgeattn.exporters.weight_size`);
- activations: the most that values take at once (`edgeattn.exporters.liveness`), with what each attention holds inside by
  the form that is the runtime's default for it (`Lowering.scratch`); inputs and outputs are among them. Floats are 2 bytes in
  fp16 and 4 in every other precision;
- the KV cache, for a decoder (`edgeattn.exporters.cache_size`), of the activations' type; where the model takes it as inputs,
  at the length of `past` and `sequence` together.

Not counted: the runtime's own code, arena and thread buffers, copies of weights that it packs for its kernels, and the
program around it. The default form is taken without its probe, so `export` may choose another one where that fails.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from edgeattn.benchmarking.feeds import DEFAULT_SIZES
from edgeattn.errors import LoweringError, UsageError, unknown
from edgeattn.exporters.cache_size import cache_size
from edgeattn.exporters.capture import capture, named_outputs
from edgeattn.exporters.export import as_source, modes_kept
from edgeattn.exporters.liveness import peak
from edgeattn.exporters.lowerings.base import Core, Lowering
from edgeattn.exporters.lowerings.defaults import candidates
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.passes.fixed_sizes import fix_sizes
from edgeattn.exporters.sites import find_sites
from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.sources.module import DynamicAxes
from edgeattn.exporters.static_shapes import all_sizes, check_size
from edgeattn.exporters.weight_size import PRECISIONS, weight_size
from edgeattn.manifest import PAST
from edgeattn.runtimes import registry


@dataclass(frozen=True, slots=True)
class Row:
    """Bytes in one precision. `activations` include `scratch`, what the attention holds inside where the most is in use.
    `cache` is that of all sequences of the batch, `cache_per_token` that of one; 0 for a model that decodes nothing."""

    precision: str
    weights: int
    activations: int
    scratch: int
    cache: int
    cache_per_token: int
    cache_is_input: bool = False
    """The model takes its cache as inputs and gives it back as outputs, so `activations` hold it already."""

    @property
    def peak(self) -> int:
        """All of it at once."""
        return self.weights + self.activations + (0 if self.cache_is_input else self.cache)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a model needs at `sizes` on `runtime`, in each precision. `at` is the node where activations take the most."""

    source: str
    runtime: str
    sizes: dict[str, int]
    parameters: int
    lowerings: dict[str, int]
    """Default form -> number of attention sites."""
    at: str
    rows: tuple[Row, ...]
    memory: int | None = None

    @property
    def fits(self) -> bool:
        """Whether at least one of the precisions fits the memory, if one was given."""
        return self.memory is None or any(row.peak <= self.memory for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        rows = []
        for row in self.rows:
            fits = None if self.memory is None else row.peak <= self.memory
            rows.append({**dataclasses.asdict(row), "peak": row.peak, "fits": fits})
        return {**dataclasses.asdict(self), "rows": rows, "fits": self.fits}


def estimate(
    model: str | torch.nn.Module,
    inputs: Mapping[str, torch.Tensor] | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
    precisions: Sequence[str] = PRECISIONS,
    runtime: str = "onnxruntime:cpu",
    memory: int | None = None,
    dynamic: DynamicAxes | None = None,
    progress: Callable[[str], None] | None = None,
) -> Estimate:
    """Estimate the memory that `model` needs at `sizes`; see the module for what is counted.

    Args:
        model, inputs, dynamic: as for `edgeattn.export`.
        sizes: sizes of dynamic dimensions; by default batch 1, sequence 128, and the example's of any other.
        precisions: of fp32, fp16, int8, int4.
        runtime: the target whose default attention forms are taken; it need not be installed.
        memory: bytes there are; `Estimate.fits` answers.

    Raises:
        UsageError: an unknown dimension, precision or runtime, or a size that the model does not take.
        SourceError, CaptureError: as `edgeattn.export`; also for a size that follows from values.
    """
    say = progress or (lambda _: None)
    engine, device = registry.parse_target(runtime)
    for precision in precisions:
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
    with ExitStack() as stack:
        if isinstance(model, torch.nn.Module):
            stack.enter_context(modes_kept(model))
        say("loading the model")
        source = as_source(model, inputs, dynamic)
        chosen = _sizes(source, sizes or {})
        say("capturing the graph")
        canonical = capture(source, _output_names(source))
        say("counting")
        return _estimate(source, canonical, chosen, precisions, f"{engine.name}:{device}", memory)


def _estimate(
    source: Source, canonical: ir.Model, sizes: dict[str, int], precisions: Sequence[str], runtime: str, memory: int | None
) -> Estimate:
    limits = {d.name: d.limit for d in source.dimensions.values() if d.limit is not None}
    square = {site.name: site.core(limits).square for site in find_sites(canonical)}
    fixed = fix_sizes(canonical, sizes)
    cores = {site.name: site.fixed_core(limits) for site in find_sites(fixed)}
    forms = {name: _default(runtime.partition(":")[0], core) for name, core in cores.items()}
    cache = cache_size((dataclasses.replace(core, square=square[name]), _keys(core)) for name, core in cores.items())
    batch = max((core.size[0] for core in cores.values() if core.size), default=1)
    rows, at = [], ""
    for precision in precisions:
        each = 2 if precision == "fp16" else 4

        def scratch(node: ir.Node, each: int = each) -> int:
            core = cores.get(node.name or "")
            return 0 if core is None or core.size is None else each * forms[node.name or ""].scratch(core.spec, *core.size)

        most = peak(fixed, each, scratch)
        at = at or most.at
        rows.append(
            Row(
                precision=precision,
                weights=weight_size(canonical, precision),
                activations=most.bytes,
                scratch=most.scratch,
                cache=batch * each * cache.at_length if cache else 0,
                cache_per_token=each * cache.per_token if cache else 0,
                cache_is_input=PAST in source.dimensions,
            )
        )
    used = dict(Counter(form.name for form in forms.values()))
    return Estimate(source.name, runtime, sizes, _parameters(source, canonical), used, at, tuple(rows), memory)


def _sizes(source: Source, asked: Mapping[str, int]) -> dict[str, int]:
    for name in asked:
        if name not in source.dimensions:
            if not source.dimensions:
                raise UsageError(f"--size {name}: every size of {source.name} is fixed; leave --size out")
            raise unknown("dimension", name, source.dimensions)
    sizes = {}
    for name, dimension in source.dimensions.items():
        usual = 1 if dimension.batch else DEFAULT_SIZES.get(name, source.capture_sizes()[name])
        sizes[name] = check_size(asked, dimension, "--size") if name in asked else dimension.bounded(usual)
    return all_sizes(source, sizes)


def _output_names(source: Source) -> list[str]:
    """By a run on tensors that have shapes and no values; what is a graph already tells them with its example alone."""
    if source.graph is not None:
        return list(named_outputs(source.module(**source.inputs)))
    with torch.inference_mode(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return list(named_outputs(source.module(**{name: mode.from_tensor(x) for name, x in source.inputs.items()})))


def _default(runtime: str, core: Core) -> Lowering:
    for name, _ in candidates(runtime, core):
        if get(name).accepts(core) is None:
            return get(name)
    raise LoweringError(f"no lowering accepts {core.spec.summary()}")


def _keys(core: Core) -> int:
    return core.size[2] if core.size else 0


def _parameters(source: Source, canonical: ir.Model) -> int:
    """Numbers that training learns, those of a shared layer once; of a graph all floats that it stores."""
    if source.graph is None:
        return sum(parameter.numel() for parameter in source.module.parameters())
    tensors = [value.const_value for value in canonical.graph.initializers.values()]
    return sum(tensor.size for tensor in tensors if tensor is not None and tensor.dtype.is_floating_point())

"""Prove lowerings on the runtimes that are here: each form as a one-node model, run and compared with the formula."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from edgeattn.exporters.canonical import OPSET, canonical_node
from edgeattn.exporters.graph import IR_VERSION, Builder
from edgeattn.exporters.lower import lower
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands
from edgeattn.exporters.passes.fixed_sizes import fold_sizes
from edgeattn.exporters.passes.pipeline import finish
from edgeattn.exporters.sites import DOMAIN
from edgeattn.patterns import Pattern, always_sees
from edgeattn.probe import MAX_BATCH, MAX_LENGTH, ProbeResult, run_probe
from edgeattn.runtimes.base import Runtime
from edgeattn.spec import function_name

SITE = "probe"


class Prover:
    """Runs each probe once per runtime and device, and keeps its model for the bundle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._results: dict[tuple[str, str, str, Core], ProbeResult] = {}

    def prove(self, lowering: Lowering, core: Core, runtime: Runtime, device: str) -> ProbeResult:
        """Whether `runtime` computes `core` rightly in this form."""
        key = (runtime.name, device, lowering.name, core)
        if key not in self._results:
            size = probe_size(core)
            self._results[key] = run_probe(
                runtime,
                device,
                self.model(lowering, core),
                core.spec,
                sizes=[size] if size else None,
                square=square_only(lowering, core),
                cached=lowering.updates_cache,
            )
        return self._results[key]

    def verdict(self, lowering: Lowering, core: Core, runtime: Runtime, device: str) -> tuple[str, str]:
        """Status and reason: `refused` (the form cannot express the core), `fails` (the runtime is wrong with it), `pass`."""
        refusal = lowering.accepts(core)
        if refusal is not None:
            return "refused", refusal
        result = self.prove(lowering, core, runtime, device)
        return ("pass", "") if result.passed else ("fails", result.reason)

    def model(self, lowering: Lowering, core: Core) -> Path:
        """The probe's model file, written on first use."""
        path = self.folder / f"{probe_name(lowering, core)}.onnx"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            ir.save(probe_model(lowering, core), path)
        return path


def probe_name(lowering: Lowering, core: Core) -> str:
    """What tells a probe from others: the form, the spec, and how the graph promises or bounds sizes."""
    suffix = "-square" if square_only(lowering, core) else ""
    size = probe_size(core)
    suffix += "-" + "x".join(map(str, size)) if size else ""
    suffix += f"-of{core.max_keys or ''}" if lowering.sized else ""
    broadcast = "".join(f"-{name}{_tag(dims)}" for name, dims in (("m", core.mask_dims), ("b", core.bias_dims)) if dims)
    return f"{lowering.name}-{function_name(core.spec)}{broadcast}{suffix}"


def square_only(lowering: Lowering, core: Core) -> bool:
    """Whether the form relies on S == T: the site promises it, and without the promise it is refused or written otherwise."""
    leans = core.spec.mask == "document" or _leans_on_square(core.spec.pattern)
    return core.square and (leans or lowering.accepts(_free(core)) is not None)


def probe_size(core: Core) -> tuple[int, int, int] | None:
    """(B, S, T) of the probe of a core whose sizes are fixed: the same, as far as the formula can be computed soon."""
    if core.size is None:
        return None
    batch, queries, keys = core.size
    return min(batch, MAX_BATCH), min(queries, MAX_LENGTH), min(keys, MAX_LENGTH)


def probe_model(lowering: Lowering, core: Core) -> ir.Model:
    """A model of inputs q, k, v and, as the spec says, mask and bias, with the core written by `lowering`.

    A form that updates a cache finds the first T - S keys and values in it.
    """
    spec = core.spec
    size = probe_size(core)
    batch, queries, keys = size or ("batch", "queries", "queries" if square_only(lowering, core) else "keys")
    inputs = probe_inputs(core, batch, queries, keys)
    if lowering.updates_cache:
        return _behind_a_cache(lowering, core, inputs)
    node = canonical_node(spec, inputs, name=SITE)
    shapes: list[list[int | str]] = [
        [batch, spec.q_heads, queries, spec.value_head_dim],
        [batch, spec.q_heads, queries],
    ]
    for output, name, shape in zip(node.outputs, spec.output_names, shapes, strict=False):
        output.name, output.type, output.shape = name, ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": OPSET, DOMAIN: 1}, name="probe")
    model = lower(ir.Model(graph, ir_version=IR_VERSION), {SITE: lowering}, {}, max_keys=core.max_keys)
    if size:
        fold_sizes(model)
    return model


def probe_inputs(core: Core, batch: int | str, queries: int | str, keys: int | str) -> list[ir.Value]:
    """q, k, v and what else the spec names."""
    spec = core.spec
    rows: list[int | str] = [batch, keys]
    dims: dict[str, list[int | str]] = {
        "q": [batch, spec.q_heads, queries, spec.head_dim],
        "k": [batch, spec.kv_heads, keys, spec.head_dim],
        "v": [batch, spec.kv_heads, keys, spec.value_head_dim],
        "mask": _placed(core.mask_dims, (batch, 1, queries, keys)) if spec.mask == "dense" else rows,
        "bias": _placed(core.bias_dims, (batch, 1, queries, keys)),
        "sink": [spec.q_heads],
        "score_weight": [spec.q_heads, spec.head_dim],
        "prefix": [batch],
    }
    whole = {"prefix", "mask"} if spec.mask == "document" else {"prefix"}
    kinds = dict.fromkeys(dims, ir.DataType.FLOAT) | {"mask": ir.DataType.BOOL} | dict.fromkeys(whole, ir.DataType.INT64)
    return [ir.val(name, kinds[name], ir.Shape(dims[name])) for name in spec.input_names]


def _behind_a_cache(lowering: Lowering, core: Core, inputs: list[ir.Value]) -> ir.Model:
    b = Builder()
    x = Operands.of(core.spec, inputs)
    past, end = b.op("Sub", b.size(x.k, 2), b.size(x.q, 2)), b.ints(2**31)
    halves = [[b.op("Slice", y, a, o, b.ints(2)) for a, o in ((b.ints(0), past), (past, end))] for y in (x.k, x.v)]
    (past_k, k), (past_v, v) = halves
    out = lowering.outputs(b, core, replace(x, k=k, v=v, past_k=past_k, past_v=past_v))[0]
    out.name, out.type = core.spec.output_names[0], ir.TensorType(ir.DataType.FLOAT)
    imports = {"": OPSET, **dict.fromkeys(lowering.domains, 1)}
    model = ir.Model(ir.Graph(inputs, [out], nodes=b.nodes, opset_imports=imports, name="probe"), ir_version=IR_VERSION)
    finish(model)
    return model


def _tag(dims: tuple[int | None, ...]) -> str:
    """`1x1xnxn`: sites with one spec may still have masks that broadcast differently, and each needs its own probe."""
    return "x".join("n" if size is None else str(size) for size in dims)


def _placed(dims: tuple[int | None, ...], names: tuple[int | str, ...]) -> list[int | str]:
    """Dims of a mask or bias as the site has them; by default the same for all heads."""
    if not dims:
        return list(names)
    return [name if size is None else size for size, name in zip(dims, names[-len(dims) :], strict=True)]


def _free(core: Core) -> Core:
    return replace(core, square=False, size=None)


def _leans_on_square(pattern: Pattern) -> bool:
    """Whether a pattern is written otherwise where S == T: a lower-right diagonal is then an upper-left one, and a
    query that might see nothing sees itself."""
    aligned = getattr(pattern, "alignment", "upper_left")
    return aligned == "lower_right" or always_sees(pattern, square=True) != always_sees(pattern, square=False)

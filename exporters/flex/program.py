"""flex_attention in an exported program: each call becomes our operator, with its mask and bias computed beside it.

torch.onnx cannot write the higher-order operator `flex_attention`, whose modifiers are graphs over single scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch._higher_order_ops.flex_attention import flex_attention
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from edgeattn.errors import CaptureError, SpecError
from edgeattn.exporters.flex.modifier import Modifier
from edgeattn.exporters.flex.reading import Reading, Trial, all_shown, read
from edgeattn.exporters.flex.samples import Samples, longest, positions
from edgeattn.models import functional, partial
from edgeattn.spec import PrefixLM, SoftmaxAttention, to_json

_BATCH = 3
_NO_BLOCKS = 1 << 30
"""Block size of a mask that has no blocks."""


def raise_flex_attention(program: ExportedProgram) -> None:
    """Replace every flex_attention of `program`, in place.

    Raises:
        CaptureError: a modifier that no spec says; the largest score is asked for; a block mask without a mask_mod.
    """
    graph = program.graph
    calls = graph.find_nodes(op="call_function", target=flex_attention)
    for node in calls:
        _replace(program, node)
    if calls:
        for node in graph.find_nodes(op="call_function", target=torch.ops.aten._assert_tensor_metadata.default):
            graph.erase_node(node)  # which keep alive what block masks were computed with
        graph.eliminate_dead_code()
        graph.lint()
        program.graph_module.recompile()


def _replace(program: ExportedProgram, node: Node) -> None:
    arguments: Any = node.args
    q, k, v, score_graph, block_mask, scale, _, score_reads, mask_reads = arguments
    score_mod = Modifier(_subgraph(program, score_graph), tuple(score_reads), scored=True)
    mask_mod = Modifier(_subgraph(program, block_mask[-1]), tuple(mask_reads), scored=False)
    _check_call(node, block_mask, mask_mod)
    queries, keys = q.meta["val"].shape[2], k.meta["val"].shape[2]
    reading = read(mask_mod, score_mod, _trials(program, q, k, (mask_mod, score_mod)), square=str(queries) == str(keys))
    lse = any(_index(user) == 1 and user.users for user in node.users)
    spec = _spec(q, k, v, reading, scale, lse)
    values = list(dict.fromkeys([q, k, v, *_captured(reading)]))

    def attend(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return _attend(dict(zip(values, given, strict=True)), (q, k, v), reading, spec)

    results = _insert(program, node, values, attend)
    for user in list(node.users):
        if user.users:
            user.replace_all_uses_with(results[_index(user)])
        program.graph.erase_node(user)
    program.graph.erase_node(node)


def _index(user: Node) -> int:
    """Which result an operator.getitem takes."""
    index = user.args[1]
    assert isinstance(index, int)
    return index


def _subgraph(program: ExportedProgram, node: Node) -> GraphModule:
    graph: GraphModule = getattr(program.graph_module, str(node.target))
    return graph


def _check_call(node: Node, block_mask: Sequence[Any], mask_mod: Modifier) -> None:
    if any(_index(user) == 2 and user.users for user in node.users):
        raise CaptureError("flex_attention is asked for the largest scores (max_scores), which no other attention returns")
    block = block_mask[-3]
    if block < _NO_BLOCKS and not mask_mod.uses:
        raise CaptureError(
            "flex_attention has a block mask whose mask_mod hides nothing: PyTorch itself heeds such blocks on a GPU and ignores them "
            "on a CPU; fix: say with a mask_mod what is hidden"
        )


def _spec(q: Node, k: Node, v: Node, reading: Reading, scale: float, lse: bool) -> SoftmaxAttention:
    sizes = [q.meta["val"].shape[1], k.meta["val"].shape[1], q.meta["val"].shape[3], v.meta["val"].shape[3]]
    if not all(isinstance(size, int) for size in sizes):
        raise CaptureError(f"flex_attention: the number of heads and the head size must be fixed, got {sizes}")
    heads, kv_heads, head_dim, value_head_dim = sizes
    try:
        return SoftmaxAttention(
            heads,
            kv_heads,
            head_dim,
            value_head_dim,
            scale=scale * reading.factor,
            pattern=reading.pattern,
            softcap=reading.softcap,
            mask=reading.kind,
            bias=reading.bias is not None,
            lse=lse,
        )
    except SpecError as error:
        raise CaptureError(f"flex_attention computes what no spec says: {error}") from error


def _captured(reading: Reading) -> list[Node]:
    """The program's nodes that the inputs of the attention are computed from."""
    given = [*(part.modifier for part in reading.parts), reading.bias, reading.prefix, reading.documents]
    values = [value for modifier in given if isinstance(modifier, Modifier) for value in modifier.captured]
    return [value for value in values if isinstance(value, Node)]


def _attend(
    given: Mapping[Node, Any], operands: Sequence[Node], reading: Reading, spec: SoftmaxAttention
) -> tuple[torch.Tensor, ...]:
    """What flex_attention returns; its log-sum-exp is to base 2."""
    q, k, v = (given[node] for node in operands)
    batch, keys = q.shape[0], k.shape[2]
    k, v = (x.expand(batch, *x.shape[1:]) if x.shape[0] == 1 else x for x in (k, v))
    places = tuple(torch.arange(size) for size in (*q.shape[:3], keys))

    def captured(value: Any) -> Any:
        return given[value] if isinstance(value, Node) else value

    mask = _mask(reading, places, captured, batch, keys)
    bias = None if reading.bias is None else reading.bias.over(places, captured, torch.zeros(())).to(q.dtype)
    prefix = None
    if isinstance(spec.pattern, PrefixLM):
        at = reading.prefix
        length = at.over(places, captured) if isinstance(at, Modifier) else torch.full((1,), at or 0)
        prefix = length.reshape(-1).to(torch.int64).expand(batch)
    if not spec.lse:
        return (functional.operator(q, k, v, mask, bias, None, None, prefix, to_json(spec)),)
    context, lse = partial.partial_operator(q, k, v, mask, bias, None, prefix, to_json(spec))
    return context, lse / math.log(2)


def _mask(
    reading: Reading, places: tuple[torch.Tensor, ...], captured: Callable[[Any], Any], batch: Any, keys: Any
) -> torch.Tensor | None:
    if reading.documents is not None:
        numbers = reading.documents.over(places, captured).to(torch.int64).reshape(-1, keys)
        return (numbers - numbers.flatten().amin(0)).expand(batch, keys)  # a negative number would be padding
    if not reading.parts:
        return None
    shown = all_shown(reading.parts, places, captured)
    return shown.reshape(-1, shown.shape[-1]).expand(batch, keys) if reading.kind == "key_padding" else shown


def _insert(
    program: ExportedProgram, at: Node, values: Sequence[Node], function: Callable[..., tuple[torch.Tensor, ...]]
) -> list[Node]:
    """Trace `function` over `values` and put its operators before `at`; returns the nodes of its results."""
    mode = at.args[0].meta["val"].fake_mode  # type: ignore[union-attr]
    with mode:
        traced = make_fx(function, _allow_non_fake_inputs=True)(*(value.meta["val"] for value in values))
    traced.graph.eliminate_dead_code()
    copies = dict(zip(traced.graph.find_nodes(op="placeholder"), values, strict=True))
    with program.graph.inserting_before(at):
        for node in traced.graph.nodes:
            if node.op == "call_function":
                copies[node] = program.graph.node_copy(node, lambda old: copies[old])
                copies[node].meta = {**_origin(at), "val": node.meta.get("val")}
            elif node.op == "get_attr":
                raise CaptureError(
                    f"a modifier of flex_attention holds the tensor constant {node.target}; make it a buffer of the model"
                )
    (results,) = traced.graph.find_nodes(op="output")
    return [copies[node] for node in results.args[0]]


def _origin(node: Node) -> dict[str, Any]:
    """Where in the user's model a node came from."""
    return {key: node.meta[key] for key in ("nn_module_stack", "stack_trace", "torch_fn") if key in node.meta}


def _trials(program: ExportedProgram, q: Node, k: Node, modifiers: Sequence[Modifier]) -> list[Trial]:
    """Draws whose integers are small, as indices and document numbers are, and one where they are lengths.

    Raises:
        CaptureError: the modifiers fail on all of them.
    """
    constants = set().union(*(modifier.integers for modifier in modifiers))
    trials, error = [], None
    for seed, top in enumerate((6, 6, 100, 2)):
        samples = Samples(program, seed, top, _Sizes(program, q, longest(_tables(modifiers), constants)))
        batch, heads, queries = (samples.number(n) for n in q.meta["val"].shape[:3])
        keys = samples.number(k.meta["val"].shape[2])
        near = [positions(length, constants) for length in (queries, keys)]
        trial = Trial(samples, (torch.arange(batch), torch.arange(heads), *near), (queries, keys))
        try:
            for modifier in modifiers:
                modifier.over(trial.places, samples.captured, torch.zeros(()))
        except (IndexError, RuntimeError) as failure:  # an integer that was drawn is no index of a table
            error = failure
        else:
            trials.append(trial)
    if not trials:
        raise CaptureError(f"a modifier of flex_attention fails on every input that was tried: {error}") from error
    return trials


def _tables(modifiers: Sequence[Modifier]) -> bool:
    """Whether a modifier reads a tensor with two axes of free length."""
    shapes = [
        value.meta["val"].shape
        for m in modifiers
        for value in m.reads
        if isinstance(value, Node) and hasattr(value.meta["val"], "shape")
    ]
    return any(sum(not isinstance(size, int) for size in shape[-2:]) > 1 for shape in shapes)


class _Sizes:
    """A number for each symbol of the program, within its limits."""

    def __init__(self, program: ExportedProgram, q: Node, length: int) -> None:
        batch = q.meta["val"].shape[0]
        self._bounds, self._length = program.range_constraints, length
        self._batch = set() if isinstance(batch, int) else batch.node.expr.free_symbols

    def __call__(self, symbol: sympy.Symbol) -> int:
        wanted = _BATCH if symbol in self._batch else self._length
        bounds = self._bounds.get(symbol)
        if bounds is None:
            return wanted
        return max(int(bounds.lower), min(wanted, int(bounds.upper)) if bounds.upper < _NO_BLOCKS else wanted)

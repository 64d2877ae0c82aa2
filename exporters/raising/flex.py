"""ai.onnx.preview `FlexAttention`-1, as far as its modifier graphs say what a spec says.

A score_mod is read as a chain of steps on the scores: a soft cap first, then additions (a bias) and selections against
-inf (a mask). What a step adds or asks may depend on the scores' shape, never on the scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.raising.base import Operator, dim
from edgeattn.spec import SoftmaxAttention


@dataclass(slots=True)
class _Modified:
    """What a score_mod does; masks and biases are values of the modifier's graph."""

    softcap: float | None = None
    masks: list[ir.Value] = field(default_factory=list)
    biases: list[ir.Value] = field(default_factory=list)


def raise_flex_attention(op: Operator) -> list[ir.Value | None]:
    """What replaces the output.

    Raises:
        RaisingError: a modifier that no spec says, sizes that the graph does not know, or float64 operands.
    """
    given = [op.operand(i) for i in range(3)]
    q, k, v = (op.single(value) for value in given)
    score_mod, prob_mod = (op.attribute(name) for name in ("score_mod", "prob_mod"))
    modified = _Modified() if score_mod is None else _read_scores(op, score_mod)
    factor = None if prob_mod is None else _read_probabilities(op, prob_mod)
    copy = _Copier(op, score_mod, q, k)
    mask = _joined(op, "And", [copy.value(value) for value in modified.masks])
    bias = _joined(op, "Add", [op.b.op("Cast", copy.value(value), to=ir.DataType.FLOAT) for value in modified.biases])
    spec = SoftmaxAttention(
        op.fixed(given[0], 1),
        op.fixed(given[1], 1),
        op.fixed(given[0], 3),
        value_head_dim=op.fixed(given[2], 3),
        scale=op.attribute("scale", 0.0),
        softcap=modified.softcap,
        mask="none" if mask is None else "dense",
        bias=bias is not None,
    )
    context = op.core(spec, q, k, v, mask, bias, dims=(dim(given[0], 0), dim(given[0], 2)))
    if factor is not None:
        context = op.b.op("Mul", context, op.b.number(factor))
    return [op.returned(context, given[0])]


def _joined(op: Operator, how: str, parts: list[ir.Value]) -> ir.Value | None:
    """All parts as one value of four axes."""
    if not parts:
        return None
    whole = parts[0]
    for part in parts[1:]:
        whole = op.b.op(how, whole, part)
    return op.b.op("Expand", whole, op.b.ints(1, 1, 1, 1))


def _chain(op: Operator, graph: ir.Graph) -> list[tuple[ir.Node, ir.Value]]:
    """The steps from a modifier's input to its output, each with the value that it changes."""
    value, steps = graph.inputs[0], []
    while value is not graph.outputs[0]:
        users = {use.node for use in value.uses() if use.node.op_type != "Shape"}
        if len(users) != 1:
            raise op.error(f"{graph.name!r} is no chain of steps: {value.name!r} is used by {len(users)} nodes, expected 1")
        (step,) = users
        steps.append((step, value))
        value = step.outputs[0]
    return steps


def _read_scores(op: Operator, graph: ir.Graph) -> _Modified:
    modified, steps = _Modified(), _chain(op, graph)
    if [step.op_type for step, _ in steps[:3]] == ["Div", "Tanh", "Mul"]:
        caps = [_constant(_other(op, *steps[i])) for i in (0, 2)]
        if caps[0] is None or caps[0] != caps[1] or steps[0][0].inputs[0] is not steps[0][1]:
            raise op.error(f"score_mod divides and multiplies by {caps}; a soft cap is one number, cap * tanh(score / cap)")
        modified.softcap = caps[0]
        steps = steps[3:]
    for step, value in steps:
        if step.op_type == "Add":
            modified.biases.append(_other(op, step, value))
        elif step.op_type == "Where" and step.inputs[1] is value and _constant(step.inputs[2]) == -np.inf:
            shown = step.inputs[0]
            assert shown is not None
            modified.masks.append(shown)
        else:
            raise op.error(
                f"score_mod has the step {step.op_type}; known are a soft cap first (Div, Tanh, Mul), Add, "
                "and Where(shown, score, -inf)"
            )
    return modified


def _read_probabilities(op: Operator, graph: ir.Graph) -> float:
    """The factor by which a prob_mod multiplies: it passes through the product with V."""
    steps = _chain(op, graph)
    factor = _constant(_other(op, *steps[0])) if [step.op_type for step, _ in steps] == ["Mul"] else None
    if factor is None:
        raise op.error(f"prob_mod has the steps {[step.op_type for step, _ in steps]}; known is one Mul by a number")
    return factor


def _other(op: Operator, step: ir.Node, value: ir.Value) -> ir.Value:
    """The other input of a step with two."""
    others = [x for x in step.inputs if x is not None and x is not value]
    if len(others) != 1:
        raise op.error(f"{step.op_type} uses {value.name!r} twice")
    return others[0]


def _constant(value: ir.Value | None) -> float | None:
    """A constant of one element."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return float(tensor.numpy().reshape(())) if tensor is not None and tensor.size == 1 else None


class _Copier:
    """Writes values of a modifier's graph beside the attention, where the scores themselves do not exist."""

    def __init__(self, op: Operator, graph: ir.Graph | None, q: ir.Value, k: ir.Value) -> None:
        self._op, self._graph, self._q, self._k = op, graph, q, k
        self._known: dict[ir.Value, ir.Value] = {}

    def value(self, old: ir.Value) -> ir.Value:
        """The copy of `old`, with everything it is computed from."""
        if old not in self._known:
            self._known[old] = self._write(old)
        return self._known[old]

    def _write(self, old: ir.Value) -> ir.Value:
        graph, node = self._graph, old.producer()
        assert graph is not None
        if old is graph.inputs[0]:
            raise self._op.error(f"a mask or bias of {graph.name!r} depends on the scores, not only on their shape")
        if old.const_value is not None:
            # a tensor of its own: a pass that renames it must not rename the modifier's
            return self._op.b.op("Constant", value=ir.tensor(old.const_value.numpy()))
        if node is None or node.graph is not graph:
            return old  # a value of the graph around
        if node.op_type == "Shape" and node.inputs[0] is graph.inputs[0]:
            return self._shape(node)
        if len(node.outputs) > 1 or any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()
        ):
            raise self._op.error(
                f"{graph.name!r} computes a mask or bias with {node.op_type}, which has branches or several outputs"
            )
        inputs = [None if x is None else self.value(x) for x in node.inputs]
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        return self._op.b.op(node.op_type, *inputs, domain=node.domain, **attributes)

    def _shape(self, node: ir.Node) -> ir.Value:
        """The shape of the scores, (B, H, S, T), from q and k."""
        b = self._op.b
        start, end = (node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end"))
        sizes = [b.size(self._q, 0), b.size(self._q, 1), b.size(self._q, 2), b.size(self._k, 2)][start:end]
        return b.op("Concat", *sizes, axis=0)

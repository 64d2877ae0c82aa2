"""MatMul, Softmax, MatMul in standard operators: the form every runtime has, and the body of the canonical function."""

from __future__ import annotations

import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands
from edgeattn.exporters.lowerings.visibility import Visibility, visibility
from edgeattn.spec import AttentionSpec, Full


class Decomposed(Lowering):
    """Keys and values are repeated for grouped queries; scores of (B, H, S, T) are held."""

    name = "decomposed"
    summary = "MatMul, Softmax, MatMul in standard operators"
    takes = "every softmax attention"

    def accepts(self, core: Core) -> str | None:
        return None

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        spec = core.spec
        k, v = (repeat_heads(b, value, spec) for value in (x.k, x.v))
        shown = self._shown(b, core, x)
        scores = scaled_scores(b, spec, x.q, k)
        weights = b.op("Softmax", shown.add(b, scores), axis=-1)
        return shown.guard(b, b.op("MatMul", weights, v))

    def _shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        return visibility(b, core, x)

    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        repeated = keys * (spec.head_dim + spec.value_head_dim) if spec.group > 1 else 0
        return batch * spec.q_heads * (queries * keys + repeated)


class DecomposedOpen(Decomposed):
    """The decomposed form with a mask that hides nothing, (1, 1, 1, T) zeros.

    OpenVINO 2026.4 compiles unmasked attention into a kernel that, once it ran with a single key, gives wrong numbers
    without an error for longer keys. The masked kernel is right.
    """

    name = "decomposed-open"
    summary = "the decomposed form with an explicit mask of zeros, where unmasked kernels are wrong"
    takes = "attention without mask, bias or pattern"

    def accepts(self, core: Core) -> str | None:
        spec = core.spec
        masked = spec.mask != "none" or spec.bias or not isinstance(spec.pattern, Full)
        return "it has a mask already, which the decomposed form adds" if masked else None

    def _shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        shape = b.op("Concat", b.ints(1, 1, 1), b.size(x.k, 2), axis=0)
        return Visibility(b.op("Expand", b.number(0), shape), None)


def scaled_scores(b: Builder, spec: AttentionSpec, q: ir.Value, k: ir.Value) -> ir.Value:
    """scale * q k^T with the soft cap. The scale follows the product: runtimes fold it into the MatMul there."""
    scores = b.op("Mul", b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), b.number(spec.scale))
    if spec.softcap is None:
        return scores
    return b.op("Mul", b.op("Tanh", b.op("Div", scores, b.number(spec.softcap))), b.number(spec.softcap))


def repeat_heads(b: Builder, value: ir.Value, spec: AttentionSpec) -> ir.Value:
    """(B, K, T, D) -> (B, H, T, D), each head `group` times."""
    if spec.group == 1:
        return value
    wide = b.op("Expand", b.op("Unsqueeze", value, b.ints(2)), b.ints(1, 1, spec.group, 1, 1))
    return b.op("Reshape", wide, b.op("Concat", b.ints(0, spec.q_heads), b.size(value, 2), b.size(value, 3), axis=0))

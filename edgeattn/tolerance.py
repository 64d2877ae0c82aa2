"""The one table of tolerances. A check names a class, never a number; nothing at run time loosens it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgeattn.errors import unknown

OutputClass = Literal["activation", "decoder", "normalized", "attention", "integer"]
"""What a value is:

- `activation`: hidden states, logits, whatever a whole model gives;
- `decoder`: logits and caches of a decoder, where the rounding of each of its many layers is read again by all later ones;
- `normalized`: vectors of unit length (embeddings);
- `attention`: the output of one attention core, as in a capability probe;
- `integer`: ids, counts, booleans.
"""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """|got - expected| <= atol * max(1, RMS(expected)) + rtol * |expected|, for all but `outliers` of the elements.

    `atol` counts in units of the reference's own size once that exceeds 1, since a fixed absolute bound says nothing
    about a model whose activations are in the hundreds.
    """

    atol: float
    rtol: float
    outliers: float = 0.0


TABLE: dict[tuple[OutputClass, str], Tolerance] = {
    ("activation", "float32"): Tolerance(atol=2e-5, rtol=0.0),
    # on 30 layers PyTorch itself is up to 1e-4 of the RMS away from its own float64
    ("decoder", "float32"): Tolerance(atol=1e-3, rtol=0.0),
    ("normalized", "float32"): Tolerance(atol=1e-6, rtol=0.0),
    ("attention", "float32"): Tolerance(atol=5e-6, rtol=5e-6),
    ("integer", "int64"): Tolerance(atol=0.0, rtol=0.0),
    ("integer", "int32"): Tolerance(atol=0.0, rtol=0.0),
    ("integer", "bool"): Tolerance(atol=0.0, rtol=0.0),
}


def tolerance(kind: OutputClass, dtype: str) -> Tolerance:
    """The row of the table. Raises UsageError for a pair it does not hold."""
    row = TABLE.get((kind, dtype))
    if row is None:
        raise unknown("tolerance", f"{kind}/{dtype}", [f"{k}/{d}" for k, d in TABLE])
    return row


def default_class(dtype: str) -> OutputClass:
    """The class of an output that nobody declared: `activation` for floats, `integer` otherwise."""
    return "activation" if dtype.startswith(("float", "bfloat")) else "integer"


OUTPUT_CLASSES: tuple[str, ...] = get_args(OutputClass)

"""Patterns: which query sees which key by position alone. One class with one formula per pattern.

A pattern's `sees` is written once, in operators that numpy, torch and the exporter's graph values share, so the truth in
numpy, training in torch and every lowering read the same line.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from edgeattn.errors import SpecError
from edgeattn.fields import check_flag, check_int, check_one_of, construct

Alignment = Literal["upper_left", "lower_right"]
"""Where the diagonal of a pattern lies when S != T: at the first key (`upper_left`, as `is_causal` of torch and ONNX
without a past) or so that the last query meets the last key (`lower_right`, as with a KV cache)."""


class Places(Protocol):
    """What a formula is written in: positions as integer arrays of numpy, torch or a graph that is being built."""

    @property
    def keys(self) -> Any:
        """(1, T): position of each key."""

    @property
    def prefix(self) -> Any:
        """(B, 1, 1, 1): the node's input `prefix`, the number of positions that all queries see."""

    def queries(self, alignment: Alignment = "upper_left") -> Any:
        """(S, 1): position of each query among the keys."""

    def look_up(self, table: tuple[tuple[str, ...], ...], rows: Any, columns: Any) -> Any:
        """Entries of a table of "0" and "1", by row (S, 1) and column (1, T): (heads of the table, S, T) bool."""


@dataclass(frozen=True, slots=True)
class Full:
    """Every query sees every key."""

    def sees(self, at: Places) -> Any:
        """(1, T) bool."""
        return at.keys >= 0

    def summary(self) -> str:
        """As tables show it."""
        return "full"


@dataclass(frozen=True, slots=True)
class Causal:
    """Query i sees key j when j <= i + offset; offset is 0 (`upper_left`) or T - S (`lower_right`)."""

    alignment: Alignment = "upper_left"

    def __post_init__(self) -> None:
        check_one_of("alignment", self.alignment, get_args(Alignment))

    def sees(self, at: Places) -> Any:
        """(S, T) bool."""
        return at.keys <= at.queries(self.alignment)

    def summary(self) -> str:
        """As tables show it."""
        return _aligned("causal", self.alignment)


@dataclass(frozen=True, slots=True)
class PrefixLM:
    """Causal, but every query sees the first `prefix` positions: an input of the node, int64 (B,), one length per row.

    Raffel et al., "T5", 2019 (https://arxiv.org/abs/1910.10683), section 3.2.1.
    """

    def sees(self, at: Places) -> Any:
        """(B, 1, S, T) bool."""
        return (at.keys <= at.queries()) | (at.keys < at.prefix)

    def summary(self) -> str:
        """As tables show it."""
        return "prefix-LM"


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """Query i sees key j when -left <= j - i - offset <= right. None on a side means no limit there.

    A causal window of W keys is `SlidingWindow(left=W - 1, right=0)` (ONNX left_window_size, right_window_size).
    """

    left: int | None
    right: int | None
    alignment: Alignment = "upper_left"

    def __post_init__(self) -> None:
        for side, value in (("left", self.left), ("right", self.right)):
            if value is not None:
                check_int(f"SlidingWindow.{side}", value, least=0, otherwise=" or None")
        if self.left is None and self.right is None:
            raise SpecError("SlidingWindow without a left and a right limit hides nothing: use Full()")
        if self.left is None and self.right == 0:
            raise SpecError("SlidingWindow(left=None, right=0) is Causal(): use that")
        check_one_of("alignment", self.alignment, get_args(Alignment))

    def sees(self, at: Places) -> Any:
        """(S, T) bool."""
        return _within(at.keys - at.queries(self.alignment), self.left, self.right)

    def summary(self) -> str:
        """As tables show it."""
        sides = ["all" if side is None else str(side) for side in (self.left, self.right)]
        return _aligned(f"window [{sides[0]}, {sides[1]}]", self.alignment)


@dataclass(frozen=True, slots=True)
class Dilated:
    """A window with gaps: query i sees i + m * dilation for -left <= m <= right.

    Beltagy et al., "Longformer", 2020 (https://arxiv.org/abs/2004.05150), section 3.1.
    """

    left: int
    right: int
    dilation: int

    def __post_init__(self) -> None:
        check_int("Dilated.left", self.left, least=0)
        check_int("Dilated.right", self.right, least=0)
        check_int("Dilated.dilation", self.dilation, least=1)
        if self.dilation == 1:
            raise SpecError("Dilated with dilation 1 has no gaps: use SlidingWindow(left, right)")

    def sees(self, at: Places) -> Any:
        """(S, T) bool."""
        distance = at.keys - at.queries()
        inside = _within(distance, self.left * self.dilation, self.right * self.dilation)
        return inside & (distance % self.dilation == 0)

    def summary(self) -> str:
        """As tables show it."""
        return f"dilated [{self.left}, {self.right}] x {self.dilation}"


@dataclass(frozen=True, slots=True)
class GlobalLocal:
    """A window, and the first `tokens` positions, which see all and are seen by all; `causal` hides what comes later.

    Beltagy et al., "Longformer", 2020 (https://arxiv.org/abs/2004.05150), section 3.1, with the global tokens in front;
    causal: Xiao et al., "StreamingLLM", 2023 (https://arxiv.org/abs/2309.17453), where they are the attention sinks.
    """

    left: int
    right: int
    tokens: int
    causal: bool = False

    def __post_init__(self) -> None:
        check_int("GlobalLocal.left", self.left, least=0)
        check_int("GlobalLocal.right", self.right, least=0)
        check_int("GlobalLocal.tokens", self.tokens, least=1)
        check_flag("GlobalLocal.causal", self.causal)
        if self.causal and self.right:
            raise SpecError(f"a causal GlobalLocal sees nothing to the right: right must be 0, got {self.right}")

    def sees(self, at: Places) -> Any:
        """(S, T) bool."""
        near = _within(at.keys - at.queries(), self.left, self.right)
        if self.causal:
            return near | ((at.keys < self.tokens) & (at.keys <= at.queries()))
        return near | (at.keys < self.tokens) | (at.queries() < self.tokens)

    def summary(self) -> str:
        """As tables show it."""
        return f"{'causal ' * self.causal}window [{self.left}, {self.right}] + {self.tokens} global"


@dataclass(frozen=True, slots=True)
class Strided:
    """Causal: the last `stride` positions, and before them every `stride`-th, counted back from the query.

    Child et al., "Sparse Transformer", 2019 (https://arxiv.org/abs/1904.10509), section 4.3, both heads' patterns merged.
    """

    stride: int

    def __post_init__(self) -> None:
        check_int("Strided.stride", self.stride, least=1)

    def sees(self, at: Places) -> Any:
        """(S, T) bool."""
        back = at.queries() - at.keys
        return (back >= 0) & ((back < self.stride) | (back % self.stride == 0))

    def summary(self) -> str:
        """As tables show it."""
        return f"strided {self.stride}"


@dataclass(frozen=True, slots=True)
class Fixed:
    """Causal: the query's own block of `block` positions, and the last `columns` positions of every block before.

    Child et al., "Sparse Transformer", 2019 (https://arxiv.org/abs/1904.10509), section 4.3, both heads' patterns merged.
    """

    block: int
    columns: int = 1

    def __post_init__(self) -> None:
        check_int("Fixed.block", self.block, least=1)
        check_int("Fixed.columns", self.columns, least=1)
        if self.columns > self.block:
            raise SpecError(f"Fixed.columns ({self.columns}) must not exceed Fixed.block ({self.block})")

    def sees(self, at: Places) -> Any:
        """(S, T) bool."""
        own = at.keys // self.block == at.queries() // self.block
        return (at.keys <= at.queries()) & (own | (at.keys % self.block >= self.block - self.columns))

    def summary(self) -> str:
        """As tables show it."""
        return f"fixed {self.block}, {self.columns} columns"


@dataclass(frozen=True, slots=True)
class BlockSparse:
    """Any static layout of blocks: queries of block r see keys of block c where `layout[head][r][c]` is "1".

    `layout` holds one table for all heads, or one per query head; each is a tuple of rows of "0" and "1", as many rows
    as columns. Positions beyond `rows * block` have no entry, so a longer input is refused. `causal` hides later keys.
    Zaheer et al., "BigBird", 2020 (https://arxiv.org/abs/2007.14062), for a layout of window, global and random blocks.
    """

    block: int
    layout: tuple[tuple[str, ...], ...]
    causal: bool = False

    def __post_init__(self) -> None:
        check_int("BlockSparse.block", self.block, least=1)
        check_flag("BlockSparse.causal", self.causal)
        try:
            layout = tuple(tuple(rows) for rows in self.layout)
        except TypeError:
            layout = ()
        if not layout or not layout[0] or any(isinstance(rows, str) for rows in self.layout):
            raise SpecError(f"BlockSparse.layout must be tables (one, or one per head) of rows, got {self.layout!r:.80}")
        size = len(layout[0])
        for head, rows in enumerate(layout):
            if len(rows) != size or not all(isinstance(row, str) and re.fullmatch("[01]*", row) for row in rows):
                raise SpecError(f"BlockSparse.layout[{head}] must be {size} rows of 0 and 1, got {rows!r:.80}")
            wrong = next((row for row in rows if len(row) != size), None)
            if wrong is not None:
                raise SpecError(
                    f"BlockSparse.layout[{head}] must have as many columns as rows ({size}), got a row of {len(wrong)}"
                )
        object.__setattr__(self, "layout", layout)

    @property
    def limit(self) -> int:
        """Largest number of positions the layout describes."""
        return self.block * len(self.layout[0])

    def sees(self, at: Places) -> Any:
        """(1 or H, S, T) bool."""
        shown = at.look_up(self.layout, at.queries() // self.block, at.keys // self.block)
        return shown & (at.keys <= at.queries()) if self.causal else shown

    def summary(self) -> str:
        """As tables show it."""
        ones = sum(row.count("1") for rows in self.layout for row in rows)
        share = ones / (len(self.layout) * len(self.layout[0]) ** 2)
        return f"{'causal ' * self.causal}blocks of {self.block}, {share:.0%} of {len(self.layout[0])} x {len(self.layout[0])}"


Pattern = Full | Causal | PrefixLM | SlidingWindow | Dilated | GlobalLocal | Strided | Fixed | BlockSparse
_TYPES: dict[str, type[Pattern]] = {
    "full": Full,
    "causal": Causal,
    "prefix_lm": PrefixLM,
    "sliding_window": SlidingWindow,
    "dilated": Dilated,
    "global_local": GlobalLocal,
    "strided": Strided,
    "fixed": Fixed,
    "block_sparse": BlockSparse,
}
_NAMES = {cls: name for name, cls in _TYPES.items()}


def check_pattern(pattern: object) -> None:
    """Raise SpecError for anything but a pattern."""
    if type(pattern) not in _NAMES:
        raise SpecError(f"pattern must be one of {', '.join(c.__name__ for c in _NAMES)}, got {pattern!r}")


def longest(pattern: Pattern) -> int | None:
    """Largest length a pattern describes; None where it describes every length."""
    return pattern.limit if isinstance(pattern, BlockSparse) else None


def always_sees(pattern: Pattern, square: bool) -> bool:
    """Whether every query sees some key at every S and T (`square`: at every S == T)."""
    if isinstance(pattern, BlockSparse):  # at S == T the blocks up to a query's own are there, else only the first
        return all("1" in row[: i + 1 if square else 1] for rows in pattern.layout for i, row in enumerate(rows))
    if square:
        return True
    match pattern:  # what sees the first key from everywhere
        case SlidingWindow() | Causal() if pattern.alignment == "lower_right":
            return False
        case SlidingWindow():
            return pattern.left is None
        case Strided():
            return pattern.stride == 1
        case Fixed():
            return pattern.columns == pattern.block
    return not isinstance(pattern, Dilated)


def sees_itself(pattern: Pattern) -> bool:
    """Whether the last query sees the last key, the one before it the key before that, and so on, at every S <= T."""
    return isinstance(pattern, Causal | SlidingWindow) and pattern.alignment == "lower_right"


def to_dict(pattern: Pattern) -> dict[str, Any]:
    """A JSON-ready dict; `from_dict` reads it back."""
    return {"type": _NAMES[type(pattern)], **dataclasses.asdict(pattern)}


def from_dict(data: Any) -> Pattern:
    """The pattern that `to_dict` wrote. Raises SpecError."""
    return construct("a pattern", _TYPES, data)


def _within(distance: Any, left: int | None, right: int | None) -> Any:
    if left is None:
        return distance <= right
    return distance >= -left if right is None else (distance >= -left) & (distance <= right)


def _aligned(name: str, alignment: Alignment) -> str:
    return name if alignment == "upper_left" else f"{name} {alignment}"

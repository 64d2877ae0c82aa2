"""Which masks of a site are nothing but a pattern and padding: computed at many sizes, and compared with the formula.

A mask is built in as many ways as there are exporters, so it is not read: the part of the graph that builds it is run
where the pattern is known, at lengths around every number that it contains, under random padding. Only what equals the
formula everywhere becomes spec; the rest stays what it is, a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeattn.errors import EdgeAttnError
from edgeattn.exporters.raising.parts import Part, free_symbols, part, running, shape_at, size_at
from edgeattn.naive import visible
from edgeattn.patterns import Causal, Full, Pattern, SlidingWindow

HIDES = -1e4
"""What is added to the score of a hidden key, at most: -10000 is the weakest in use. The softmax of what lies that much
below another score is exactly 0 in float32."""
MASK_INPUT = "attention_mask"
"""Graph inputs whose names end so hold 1 and 0 only: a position, and padding."""
_LENGTHS = (1, 2, 3, 5, 8, 13, 33)
_LONGEST = 4200
"""Lengths beyond are not tried: a part that contains a larger number is not proven."""
_NO_LENGTH = 1 << 31
"""From here on a number is no length but 'until the end'."""
_ROWS = 3

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Query and key length of a site as its graph names them, and every name of a size in the graph's inputs."""

    queries: int | ir.SymbolicDim
    keys: int | ir.SymbolicDim
    symbols: frozenset[str]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What masks say together. `padding`: a graph input (B, T) that is `padded` where a key is hidden."""

    pattern: Pattern
    padding: ir.Value | None = None
    padded: int = 0


def meaning(values: Sequence[ir.Value], pattern: Pattern, lengths: Lengths) -> Meaning | None:
    """What `values` (bool: True is visible; float: added to the scores) say together with `pattern`; None unless proven."""
    piece = part(values, set(lengths.symbols))
    if piece is None or len(piece.read) > 1 or not all(_may_pad(value) for value in piece.read):
        return None
    padding = piece.read[0] if piece.read else None
    grid = _grid(piece, lengths)
    try:
        with running(piece) as session:
            for padded in _padded_values(piece, padding):
                trial = _Trial(session.run, piece, pattern, lengths, padding, padded)
                if grid and (found := trial.prove(grid)):
                    return Meaning(found, padding, padded)
    except EdgeAttnError:  # the part does not run on its own
        return None
    return None


def _may_pad(value: ir.Value) -> bool:
    integral = value.dtype in (ir.DataType.INT64, ir.DataType.INT32)
    return value.shape is not None and len(value.shape) == 2 and (integral or _marks(value))


def _marks(value: ir.Value) -> bool:
    """Whether the input says nothing but real or padding."""
    return value.dtype == ir.DataType.BOOL or (value.name or "").endswith(MASK_INPUT)


def _padded_values(piece: Part, padding: ir.Value | None) -> list[int]:
    """Values of the input that may mean padding: 0, in a bool True as well, and where it holds more (token ids), each
    number in the part."""
    if padding is None or _marks(padding):
        return [0] if padding is None or padding.dtype != ir.DataType.BOOL else [0, 1]
    return sorted({0, *_numbers(piece)}, key=abs)[:20]


def _numbers(piece: Part) -> Iterator[int]:
    """Every whole number of a small constant, and the sizes of large ones."""
    for value in piece.constants:
        tensor = ir.convenience.get_const_tensor(value)
        assert tensor is not None
        if tensor.size > 8:
            yield from tensor.shape.numpy()
        elif tensor.dtype.is_integer() or tensor.dtype.is_floating_point():
            fill = tensor.dtype.is_floating_point()
            numbers = tensor.numpy().astype(np.float64).ravel()
            yield from (int(x) for x in numbers if abs(x) < _NO_LENGTH and x == int(x) and not (fill and x <= HIDES))


def _grid(piece: Part, lengths: Lengths) -> list[dict[str, int]]:
    """Sizes to try, small ones first; none where a number of the part is too large to be crossed."""
    varying = sorted(free_symbols(lengths.queries) | free_symbols(lengths.keys))
    numbers = {abs(n) for n in _numbers(piece) if abs(n) > 3}
    if varying and numbers and max(numbers) > _LONGEST:
        return []
    around = {n + d for n in numbers for d in (-1, 0, 1, 2)} | {2 * n + 1 for n in numbers if 2 * n < _LONGEST}
    tried = sorted({*_LENGTHS, *around}) if varying else [1]
    rest = sorted(lengths.symbols - set(varying))
    grid = []
    for i, length in enumerate(tried):
        batch = dict.fromkeys(rest, _ROWS if length <= _LENGTHS[-1] else 1)
        grid.append(batch | dict.fromkeys(varying, length))
        if len(varying) > 1:
            turned = [{name: tried[(i + turn * k) % len(tried)] for k, name in enumerate(varying)} for turn in (1, 3)]
            grid += [batch | sizes for sizes in turned]
    return sorted(grid, key=lambda sizes: sum(sizes.values()))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the masks showed at one size, and which keys were real: (B, 1, 1, T), or all."""

    shown: Bools
    real: Bools
    lengths: tuple[int, int]
    full: bool


@dataclass(frozen=True, slots=True)
class _Trial:
    """One reading of the padding input, tried over the grid."""

    run: Callable[[Mapping[str, NDArray[np.generic]]], Mapping[str, NDArray[np.generic]]]
    piece: Part
    pattern: Pattern
    lengths: Lengths
    padding: ir.Value | None
    padded: int

    def prove(self, grid: Sequence[Mapping[str, int]]) -> Pattern | None:
        """The pattern that holds at every size which the part can have: one with a table ends at the table's size."""
        seen: list[_Seen] = []
        rng = np.random.default_rng(0)
        for sizes in grid:
            try:
                found = [self._look(sizes, rng, full) for full in ((True,) if self.padding is None else (True, False, False))]
            except (EdgeAttnError, ValueError):  # ValueError: shapes that do not fit
                break
            if None in found:
                return None
            seen += [look for look in found if look is not None]
        if not seen or (len(grid) > 1 and max(look.lengths[1] for look in seen) < _LENGTHS[3]):
            return None
        widest = sorted((look for look in seen if look.full), key=lambda look: min(look.lengths))[-3:]
        candidates = dict.fromkeys(fit for look in reversed(widest) for fit in _fits(look))
        return next((fit for fit in candidates if all(_agrees(look, fit) for look in seen)), None)

    def _look(self, sizes: Mapping[str, int], rng: np.random.Generator, full: bool) -> _Seen | None:
        """None where a value is neither shown nor hidden. Raises EdgeAttnError, ValueError: the part has no such size."""
        queries, keys = size_at(self.lengths.queries, sizes), size_at(self.lengths.keys, sizes)
        shapes = {value: shape_at(value, sizes) for value in self.piece.leaves}
        if queries is None or keys is None or None in shapes.values():
            return None
        feeds: dict[str, NDArray[np.generic]] = {}
        real = np.ones((1, 1, 1, 1), dtype=np.bool_)
        for value, shape in shapes.items():
            assert shape is not None
            assert value.dtype is not None
            feeds[value.name or ""] = np.zeros(shape, dtype=value.dtype.numpy())
            if value is self.padding:
                feeds[value.name or ""] = drawn = self._draw(shape, rng, full).astype(value.dtype.numpy())
                real = (drawn != self.padded)[:, None, None, :]
        shown = visible(self.pattern, queries, keys)[None, None]
        for array in self.run(feeds).values():
            if (one := _visible(array)) is None:
                return None
            shown = shown & one
        np.broadcast_shapes(shown.shape, real.shape, (1, 1, queries, keys))
        return _Seen(shown, real, (queries, keys), full)

    def _draw(self, shape: tuple[int, ...], rng: np.random.Generator, full: bool) -> NDArray[np.generic]:
        assert self.padding is not None
        kept = rng.random(shape) < 0.6
        kept[:, 0] |= ~kept.any(axis=1)
        if _marks(self.padding):
            real = np.ones_like(kept) if full else kept
            return ~real if self.padded else real
        other = rng.integers(1, 30, shape) * rng.choice([-1, 1], shape) + self.padded  # anything but what means padding
        return np.asarray(other if full else np.where(kept, other, self.padded))


def _visible(array: NDArray[np.generic]) -> Bools | None:
    """What is not hidden; None for numbers that weigh."""
    if array.dtype == np.bool_:
        return np.asarray(array, dtype=np.bool_)
    numbers = array.astype(np.float64)
    zero = numbers == 0
    return zero if bool((zero | (numbers <= HIDES)).all()) else None


def _fits(look: _Seen) -> Iterator[Pattern]:
    """Patterns that would show this, where nothing is padding."""
    queries, keys = look.lengths
    shown = np.broadcast_to(look.shown, np.broadcast_shapes(look.shown.shape, (1, 1, queries, keys)))[0, 0]
    rows, columns = np.nonzero(shown)
    if shown.all():
        yield Full()
    elif len(rows):
        offsets = {"upper_left": 0} if queries == keys else {"upper_left": 0, "lower_right": keys - queries}
        for alignment, offset in offsets.items():
            places = columns - rows - offset
            left, right = int(-places.min()), int(places.max())
            limits = (None if left >= queries - 1 + offset else left, None if right >= keys - 1 - offset else right)
            if limits == (None, 0):
                yield Causal(alignment)  # type: ignore[arg-type]
            elif limits != (None, None) and all(limit is None or limit >= 0 for limit in limits):
                yield SlidingWindow(*limits, alignment)  # type: ignore[arg-type]


def _agrees(look: _Seen, pattern: Pattern) -> bool:
    """Whether the formula shows the same; a query that it hides from every key is padding, and anything will do there."""
    expected = visible(pattern, *look.lengths)[None, None] & look.real
    same = (look.shown == expected) | ~expected.any(axis=-1, keepdims=True)
    return bool(same.all())

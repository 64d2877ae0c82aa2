"""What a score_mod and a mask_mod compute, as fields of a spec: proposed from a few values, proven on many.

Nothing is guessed from the code of a modifier. It is evaluated at positions up to far beyond its own constants, with the
weights that it reads and with random values for what the model computes, and compared with the formula of the spec.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from edgeattn.errors import CaptureError
from edgeattn.exporters.flex.modifier import BATCH, KEY, QUERY, Modifier
from edgeattn.exporters.flex.patterns import Positions, proposals, same
from edgeattn.exporters.flex.samples import Samples
from edgeattn.patterns import Full, Pattern, PrefixLM
from edgeattn.spec import MaskKind

_HUGE = 1e7
_SCORES = (-30.0, -1.7, -1e-3, 0.6, 4.0, 90.0, _HUGE)
_CLOSE = 1e-5
"""Relative, for scores: a modifier computes in float32 where it reads weights."""

Captured = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """One draw of values, and the positions looked at: b, h, q, kv, each of one axis. `length`: of queries and keys."""

    samples: Samples
    places: tuple[torch.Tensor, ...]
    lengths: tuple[int, int]

    @property
    def at(self) -> Positions:
        """The positions, for a pattern's formula."""
        return Positions(self.places[QUERY], self.places[KEY])


@dataclass(frozen=True, slots=True)
class Part:
    """One condition under which a key is seen: a part of a mask_mod, or where a score_mod does not give -inf."""

    modifier: Modifier

    def shown(self, places: Sequence[torch.Tensor], captured: Captured) -> torch.Tensor:
        """(B, H, S, T) bool, 1 where it does not depend."""
        if not self.modifier.scored:
            return self.modifier.over(places, captured)
        return self.modifier.over(places, captured, torch.zeros(())) > -torch.inf


def all_shown(parts: Sequence[Part], places: Sequence[torch.Tensor], captured: Captured) -> torch.Tensor:
    """The conjunction of parts: (B, H, S, T) bool, 1 where it does not depend."""
    shown = parts[0].shown(places, captured)
    for part in parts[1:]:
        shown = shown & part.shown(places, captured)
    return shown


@dataclass(slots=True)
class Reading:
    """Fields of a spec, and what gives the node's inputs. `factor`: by which the scale is multiplied."""

    factor: float = 1.0
    softcap: float | None = None
    bias: Modifier | None = None
    pattern: Pattern = field(default_factory=Full)
    prefix: Modifier | int | None = None
    kind: MaskKind = "none"
    parts: list[Part] = field(default_factory=list)
    documents: Modifier | None = None


def read(mask_mod: Modifier, score_mod: Modifier, trials: Sequence[Trial], square: bool) -> Reading:
    """Both modifiers of one attention. `square`: as many queries as keys.

    Raises:
        CaptureError: a score_mod that is no soft cap, scale and bias.
    """
    reading = Reading()
    parts = [part for part in map(Part, mask_mod.conjuncts()) if not _always(part, trials)]
    hides = _read_scores(score_mod, trials, reading)
    extra = [Part(score_mod)] if hides else []
    rest = _read_pattern([*parts, *extra], trials, reading)
    if reading.bias is not None:
        rest = [part for part in rest if not part.modifier.scored]  # the bias holds -inf there
    _read_masks(rest, trials, reading, square)
    return reading


def _read_scores(score_mod: Modifier, trials: Sequence[Trial], reading: Reading) -> bool:
    """Soft cap, scale and bias; returns whether some scores become -inf."""
    hides = biased = False
    curves = []
    for trial in trials:
        zero, *moved = (_score(score_mod, trial, score) for score in (0.0, *_SCORES))
        hidden = torch.isneginf(zero)
        if any(not torch.equal(torch.isneginf(x), hidden) for x in moved):
            raise _unreadable("hides keys by the value of their score")
        bias = zero.masked_fill(hidden, 0.0)
        if not bool(torch.isfinite(bias).all()):
            raise _unreadable("gives NaN or +inf")
        biased, hides = biased or bool(bias.any()), hides or bool(hidden.any())
        if not hidden.all():
            curves.append(_curve([(x - zero)[~hidden] for x in moved]))
    if any(not math.isclose(a, b, rel_tol=1e-6) for curve in curves for a, b in zip(curve, curves[0], strict=True)):
        raise _unreadable("scales or caps scores by a number that the model computes")
    if curves:
        factor, cap = curves[0]
        reading.factor, reading.softcap = factor, None if math.isinf(cap) else cap
    reading.bias = score_mod if biased else None
    return hides


def _score(score_mod: Modifier, trial: Trial, score: float) -> torch.Tensor:
    """The modified score in float64, at every position of the trial."""
    return score_mod.over(trial.places, trial.samples.captured, torch.tensor(score, dtype=torch.float64)).double()


def _curve(changes: Sequence[torch.Tensor]) -> tuple[float, float]:
    """Factor and cap by which the scores themselves change: cap * tanh(factor * score / cap), everywhere the same."""
    for score, moved in zip(_SCORES, changes, strict=True):
        spread = float(moved.max() - moved.min())
        if spread > _CLOSE * max(1.0, abs(score), float(moved.abs().max())):
            raise _unreadable("changes a score differently from position to position, other than by adding to it")
    at = dict(zip(_SCORES, (float(moved.mean()) for moved in changes), strict=True))
    cap, factor = math.inf, at[4.0] / 4.0
    if abs(at[_HUGE]) < _HUGE / 10 * abs(at[0.6]):
        cap = at[_HUGE]
        factor = math.atanh(at[0.6] / cap) * cap / 0.6 if abs(at[0.6]) < abs(cap) else math.nan
    for score in _SCORES:
        expected = factor * score if math.isinf(cap) else cap * math.tanh(factor * score / cap)
        if not math.isclose(at[score], expected, rel_tol=1e-4, abs_tol=1e-6) or not factor > 0:
            raise _unreadable("changes scores other than by a positive factor and a soft cap, cap * tanh(score / cap)")
    return _tidy(factor), cap if math.isinf(cap) else _tidy(cap)


def _tidy(number: float) -> float:
    """The number without the noise of how it was found."""
    short = float(f"{number:.7g}")
    return short if math.isclose(short, number, rel_tol=1e-9) else number


def _read_pattern(parts: list[Part], trials: Sequence[Trial], reading: Reading) -> list[Part]:
    """Set the pattern that positions alone decide; returns the parts that it does not cover."""
    local = [part for part in parts if part.modifier.uses <= {QUERY, KEY} and not part.modifier.reads]
    for group in (parts, local, *([part] for part in parts)):
        pattern = _pattern(group, trials) if group else None
        if pattern is not None:
            reading.pattern = pattern
            return [part for part in parts if part not in group]
    for part in parts:
        prefixes: list[Modifier | int] = [*part.modifier.within(BATCH), *sorted(part.modifier.integers)]
        for prefix in prefixes:
            if _is_prefix(part, prefix, trials):
                reading.pattern, reading.prefix = PrefixLM(), prefix
                return [other for other in parts if other is not part]
    return parts


def _pattern(parts: Sequence[Part], trials: Sequence[Trial]) -> Pattern | None:
    trial = trials[0]
    length = min(trial.lengths)
    first = torch.zeros(1, dtype=torch.int64)

    def row(query: int) -> torch.Tensor:
        places = (first, first, torch.tensor([query]), torch.arange(length))
        return all_shown(parts, places, trial.samples.captured).expand(1, 1, 1, length).flatten()

    constants = sorted(set().union(*(part.modifier.integers for part in parts)))
    shown = [all_shown(parts, trial.places, trial.samples.captured) for trial in trials]
    for pattern in proposals(row, length, constants):
        if all(same(mask, pattern, trial.at) for mask, trial in zip(shown, trials, strict=True)):
            return pattern
    return None


def _is_prefix(part: Part, prefix: Modifier | int, trials: Sequence[Trial]) -> bool:
    """Whether a part is causal beyond a number of positions, which may differ from row to row."""
    for trial in trials:
        length = torch.tensor([prefix]) if isinstance(prefix, int) else prefix.over(trial.places, trial.samples.captured)
        if length.dtype.is_floating_point or length.dtype is torch.bool:
            return False
        at = Positions(trial.places[QUERY], trial.places[KEY], length.reshape(-1).long())
        if not same(part.shown(trial.places, trial.samples.captured), PrefixLM(), at):
            return False
    return True


def _read_masks(parts: list[Part], trials: Sequence[Trial], reading: Reading, square: bool) -> None:
    """Set the mask that the remaining parts make."""
    reading.parts = parts
    if not parts:
        return
    reading.kind = "dense"
    if all(part.modifier.uses <= {BATCH, KEY} for part in parts):
        reading.kind = "key_padding"
    elif len(parts) == 1 and square:
        for numbers in (*parts[0].modifier.within(BATCH, KEY), *parts[0].modifier.within(KEY)):
            if _is_document(parts[0], numbers, trials):
                reading.kind, reading.documents = "document", numbers


def _is_document(part: Part, numbers: Modifier, trials: Sequence[Trial]) -> bool:
    """Whether a query sees the keys at which `numbers` is the same as at its own position."""
    for trial in trials:
        captured = trial.samples.captured
        batch, heads, queries, keys = trial.places
        of_query, of_key = (numbers.over((batch, heads, queries, at), captured) for at in (queries, keys))
        if of_key.dtype.is_floating_point or of_key.dtype is torch.bool:
            return False
        if not bool((part.shown(trial.places, captured) == (of_query.transpose(2, 3) == of_key)).all()):
            return False
    return True


def _always(part: Part, trials: Sequence[Trial]) -> bool:
    """Whether a part depends on nothing and hides nothing."""
    if part.modifier.uses or part.modifier.reads:
        return False
    return all(bool(part.shown(trial.places, trial.samples.captured).all()) for trial in trials)


def _unreadable(what: str) -> CaptureError:
    return CaptureError(
        f"a score_mod of flex_attention {what}; known are a soft cap, cap * tanh(score / cap), then a bias, a table or slopes "
        "added to the score, and -inf for keys that are hidden. fix: write it so, or attend without flex_attention"
    )

"""The fastest way to write a flavour in smaller numbers that keeps a budget: every kind by itself, then mixtures of two, then one for
prompts beside one for single tokens, then a smaller cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from edgeattn.errors import RuntimeRunError
from edgeattn.exams import Budget
from edgeattn.exporters.quantize.kinds import CACHE, Kind, Kinds, Layer, cache_kinds, kinds_for, with_token
from edgeattn.exporters.quantize.trials import Trial, Trials, holding

_FINALISTS = 3
_HALVES = 2
_HOPELESS = 2.0
"""Losses of groups about add up: where they come to so many budgets, nothing is tried."""
_MARGIN = 0.1
"""Share of the budget that a mixture leaves for inputs other than those of the search."""

Slowness = Callable[[Trial], float]
"""What the best has least of."""


def search(trials: Trials, budget: Budget, seconds: float) -> list[Trial]:
    """Everything that was tried and timed, in that order; of what keeps the budget the fastest side by side. No mixture is begun when
    `seconds` are over."""
    deadline = time.monotonic() + seconds
    layers, runtime = trials.workshop.layers, trials.workshop.runtime.name
    alone = [trials.run(dict.fromkeys(layers, kind)) for kind in kinds_for(runtime)]
    found = [*alone, *_mixtures(trials, budget, alone, _ratio, deadline)]
    if trials.workshop.writes_token:
        by_token = _mixtures(trials, budget, alone, _token, deadline)
        found += [mixed for mixed in by_token if all(mixed.kinds != other.kinds for other in found)]
        found += _with_token(trials, holding(found, budget))
    if trials.workshop.keeps_cache:
        found += _smaller_caches(trials, next(iter(holding(found, budget)), None))
    finalists = holding(found, budget)[:_FINALISTS]
    again = dict(zip(map(id, finalists), trials.side_by_side(finalists), strict=True)) if finalists else {}
    return [again.get(id(trial), trial) for trial in found]


def _mixtures(trials: Trials, budget: Budget, alone: Sequence[Trial], slowness: Slowness, deadline: float) -> list[Trial]:
    """Of each kind that is too inaccurate alone and beats what keeps the budget, as many layers as can be."""
    made: list[Trial] = []
    for fast in sorted((trial for trial in alone if trial.faster), key=slowness):
        careful = _careful([*alone, *made], budget, slowness)
        beaten = careful is not None and slowness(careful) <= slowness(fast)
        if budget.holds(fast.scores) or beaten or time.monotonic() > deadline:
            continue
        mixed = _mixture(trials, _stricter(budget), next(iter(fast.kinds.values())), careful, deadline)
        made += [mixed] if mixed is not None else []
    return made


def _careful(trials: list[Trial], budget: Budget, slowness: Slowness) -> Trial | None:
    """The fastest that keeps the budget."""
    return min(holding(trials, budget), key=slowness, default=None)


def _with_token(trials: Trials, kept: Sequence[Trial]) -> Iterator[Trial]:
    """What reads prompts fastest, and what makes tokens fastest, in one file; also where that is the same, since the graph for a
    token has fewer operators."""
    timed = [trial for trial in kept if trial.faster and trial.time is not None and trial.time.parts is not None]
    if not timed:
        return
    prompts, token = min(timed, key=_prompt), min(timed, key=_token)
    yield trials.run(with_token(prompts.kinds, token.kinds))


def _smaller_caches(trials: Trials, careful: Trial | None) -> Iterator[Trial]:
    """The best so far, or full precision where none is faster, with its cache in less."""
    layers = careful.kinds if careful is not None and careful.faster else {}
    for each in cache_kinds(trials.workshop.runtime.name):
        try:
            yield trials.run({**layers, CACHE: each})
        except RuntimeRunError as error:
            trials.say(f"{each.name} is left out, since this {trials.workshop.runtime.name} does not run it: {error}")


def _mixture(trials: Trials, budget: Budget, fast: Kind, careful: Trial | None, deadline: float) -> Trial | None:
    """As many layers as the budget allows in the kind `fast`, the least sensitive first, the others as in `careful`, or as
    they were; None where not even one group of them is."""
    layers = trials.workshop.layers
    quick = trials.quick()
    lost = [(_lost(quick, budget, group, fast), group) for group in _groups(layers)]
    taken: list[Sequence[str]] = []
    expected = 0.0
    for loss, group in sorted(lost, key=lambda pair: pair[0] / sum(layers[layer].elements for layer in pair[1])):
        if time.monotonic() > deadline:
            break
        if expected + loss > _HOPELESS * budget.allowed:
            continue
        if budget.holds(trials.run(_kinds([*taken, group], fast, careful), timed=False).scores):
            taken.append(group)
            expected += loss
    return trials.run(_kinds(taken, fast, careful)) if taken else None


def _stricter(budget: Budget) -> Budget:
    """A mixture is made to lie just within what was asked, and so would as often as not miss it on other inputs."""
    return Budget(budget.metric, budget.perfect - (1 - _MARGIN) * (budget.perfect - budget.bound))


def _kinds(groups: Sequence[Sequence[str]], fast: Kind, careful: Trial | None) -> Kinds:
    return {**(careful.kinds if careful else {}), **{layer: fast for group in groups for layer in group}}


def _lost(trials: Trials, budget: Budget, group: Sequence[str], fast: Kind) -> float:
    """What the metric loses by this group alone."""
    scores = trials.run(dict.fromkeys(group, fast), timed=False).scores
    return budget.miss(scores) + budget.allowed


def _groups(layers: Mapping[str, Layer]) -> list[list[str]]:
    """Layers of one role, in the first and in the second half of the stack."""
    roles: dict[str, list[str]] = {}
    for name, layer in layers.items():
        roles.setdefault(layer.role, []).append(name)
    halves = []
    for names in roles.values():
        size = -(-len(names) // _HALVES)
        halves += [names[start : start + size] for start in range(0, len(names), size)]
    return halves


def _ratio(trial: Trial) -> float:
    assert trial.time is not None
    return trial.time.value


def _prompt(trial: Trial) -> float:
    return _parts(trial)[0]


def _token(trial: Trial) -> float:
    return _parts(trial)[1]


def _parts(trial: Trial) -> tuple[float, float]:
    assert trial.time is not None
    assert trial.time.parts is not None
    return trial.time.parts

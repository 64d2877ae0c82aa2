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
_LIKELY = 2
"""Trials that are asked again for who reads a prompt, and for who makes a token, in least time."""
_HALVED = 6
"""Groups of a mixture that are tried in halves where they do not fit."""
_HOPELESS = 2.0
"""Losses of groups about add up: where they come to so many budgets, nothing is tried."""
_MARGIN = 0.1
"""Share of the budget that a mixture leaves for inputs other than those of the search."""

Group = Sequence[str]
"""Layers that change together."""
Slowness = Callable[[Trial], float]
"""What the best has least of."""


def search(trials: Trials, budget: Budget, seconds: float) -> list[Trial]:
    """Everything that was tried and timed, in that order; of what keeps the budget the fastest side by side, before it is said whose
    cache is to be smaller, and after. No mixture is begun when `seconds` are over."""
    deadline = time.monotonic() + seconds
    layers, runtime = trials.workshop.layers, trials.workshop.runtime.name
    alone = [trials.run(dict.fromkeys(layers, kind)) for kind in kinds_for(runtime)]
    found = [*alone, *_mixtures(trials, budget, alone, _ratio, deadline)]
    if trials.workshop.writes_token and trials.workshop.writer.token_differs:
        by_token = _mixtures(trials, budget, alone, _token, deadline)
        found += [mixed for mixed in by_token if all(mixed.kinds != other.kinds for other in found)]
        found += _with_token(trials, holding(found, budget))
    elif trials.workshop.writes_token:
        found += _with_same_token(trials, holding(found, budget))
    found = _compared(trials, found, holding(found, budget)[:_FINALISTS])
    if trials.workshop.keeps_cache:
        smaller = list(_smaller_caches(trials, next(iter(holding(found, budget)), None)))
        found += smaller
        if kept := holding(smaller, budget):
            found = _compared(trials, found, [*(trial for trial in holding(found, budget) if trial.compared), *kept])
    return found


def _compared(trials: Trials, found: Sequence[Trial], finalists: Sequence[Trial]) -> list[Trial]:
    """`found`, in that order, with the times of `finalists`, which are some of them, side by side."""
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
    token has fewer operators. Those that may be it are timed side by side for this."""
    timed = [trial for trial in kept if trial.faster and trial.time is not None and trial.time.parts is not None]
    if not timed:
        return
    likely = {id(trial): trial for part in (_prompt, _token) for trial in sorted(timed, key=part)[:_LIKELY]}
    again = trials.side_by_side(list(likely.values())) if len(likely) > 1 else timed
    yield trials.run(with_token(min(again, key=_prompt).kinds, min(again, key=_token).kinds))


def _with_same_token(trials: Trials, kept: Sequence[Trial]) -> Iterator[Trial]:
    """The fastest with a graph for a token in the same kinds."""
    if faster := [trial for trial in kept if trial.faster]:
        best = min(faster, key=_ratio)
        yield trials.run(with_token(best.kinds, best.kinds))


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

    def keeps(groups: Sequence[Group], expected: float) -> bool:
        hopeless = expected > _HOPELESS * budget.allowed
        return not hopeless and budget.holds(trials.run(_kinds(groups, fast, careful), timed=False).scores)

    def size(group: Group) -> int:
        return sum(layers[layer].elements for layer in group)

    taken = _as_many(_groups(layers), lambda group: _lost(quick, budget, group, fast), keeps, size, deadline)
    return trials.run(_kinds(taken, fast, careful)) if taken else None


def _as_many(
    groups: Sequence[Group],
    lost: Callable[[Group], float],
    keeps: Callable[[Sequence[Group], float], bool],
    size: Callable[[Group], int],
    deadline: float,
) -> list[Group]:
    """Of `groups`, one after the other, what loses least for its size, as long as all of them together, with the sum of what each
    loses, keep the budget; of one with which they do not, its halves."""
    waiting = [(lost(group), group) for group in groups]
    taken: list[Group] = []
    expected, halved = 0.0, 0
    while waiting and time.monotonic() <= deadline:
        loss, group = waiting.pop(min(range(len(waiting)), key=lambda i: waiting[i][0] / size(waiting[i][1])))
        if keeps([*taken, group], expected + loss):
            taken.append(group)
            expected += loss
        elif len(group) > 1 and halved < _HALVED:
            halved += 1
            waiting += [(lost(half), half) for half in _halves(group)]
    return taken


def _stricter(budget: Budget) -> Budget:
    """A mixture is made to lie just within what was asked, and so would as often as not miss it on other inputs."""
    return Budget(budget.metric, budget.perfect - (1 - _MARGIN) * (budget.perfect - budget.bound))


def _kinds(groups: Sequence[Group], fast: Kind, careful: Trial | None) -> Kinds:
    return {**(careful.kinds if careful else {}), **{layer: fast for group in groups for layer in group}}


def _lost(trials: Trials, budget: Budget, group: Group, fast: Kind) -> float:
    """What the metric loses by this group alone."""
    scores = trials.run(dict.fromkeys(group, fast), timed=False).scores
    return budget.miss(scores) + budget.allowed


def _groups(layers: Mapping[str, Layer]) -> list[Group]:
    """Layers of one role, in the first and in the second half of the stack."""
    roles: dict[str, list[str]] = {}
    for name, layer in layers.items():
        roles.setdefault(layer.role, []).append(name)
    return [half for names in roles.values() for half in _halves(names)]


def _halves(names: Sequence[str]) -> list[list[str]]:
    """The first and the second; one where there is only one."""
    middle = -(-len(names) // 2)
    return [list(half) for half in (names[:middle], names[middle:]) if half]


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

"""From a bundle at full precision to one in smaller numbers: searched, proven on inputs that nothing has seen, written."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeattn.bundle import MANIFEST, Bundle, open_bundle, seal, weights_name, weights_of
from edgeattn.errors import UsageError
from edgeattn.exams import COSINE, DROP, LEAST_COSINE, RISE, TOP1, Budget, Exam, write_exam
from edgeattn.exporters.quantize import exams
from edgeattn.exporters.quantize.candidate import Timed, Workshop, activations_of
from edgeattn.exporters.quantize.kinds import kinds_for, kinds_of, label
from edgeattn.exporters.quantize.metric import Metric, MetricExam, measured
from edgeattn.exporters.quantize.outcome import Outcome
from edgeattn.exporters.quantize.ranges import Method
from edgeattn.exporters.quantize.samples import Feeds, Samples, check_path, gather, is_decoder
from edgeattn.exporters.quantize.search import search
from edgeattn.exporters.quantize.sensitivity import sensitivities
from edgeattn.exporters.quantize.trials import Memory, Trial, Trials, holding
from edgeattn.loading import open_session
from edgeattn.manifest import FP32, Flavour, Manifest, Quantized, Tried
from edgeattn.runtimes.base import LoadOptions, Runtime, Session

AUTO = "auto"
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for. `precisions`: names of kinds, `auto`, and `fp32` where that is to be kept beside them.

    `budget` is None where a kind is to be written whatever it loses. `output` names the vectors that are compared.
    `slower`: keep what is not faster than full precision, for its size. `seconds` bound the search of each target.
    `method`: how the ranges of inputs are found from the calibration.
    """

    precisions: tuple[str, ...]
    budget: Budget | None = None
    calibration: Path | None = None
    metric: Metric | None = None
    output: str | None = None
    slower: bool = False
    seconds: float = 600.0
    seed: int = 0
    method: Method | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Without `fp32`."""
        return tuple(dict.fromkeys(name for name in self.precisions if name != FP32))

    def check(self, targets: Sequence[tuple[Runtime, str]]) -> None:
        """Refuse what cannot be had, before any work.

        Raises:
            UsageError: a kind that a runtime does not have; a search without a budget; calibration that is not there.
        """
        for name in self.kinds:
            for runtime, _ in targets:
                if name != AUTO or not kinds_for(runtime.name):
                    kinds_of(runtime.name, name)
        if AUTO in self.kinds and len(self.kinds) > 1:
            raise UsageError(f"--precision auto tries every kind; leave out {', '.join(set(self.kinds) - {AUTO})}")
        for runtime, _ in targets if AUTO not in self.kinds else ():
            labels = Counter(label(kinds_of(runtime.name, name)) for name in self.kinds)
            if twice := [name for name, count in labels.items() if count > 1]:
                raise UsageError(f"{' and '.join(self.kinds)} are all {twice[0]} on {runtime.name}; ask for one of them")
        named = [kind for name in self.kinds if name != AUTO for runtime, _ in targets for kind in kinds_of(runtime.name, name)]
        if self.method is not None and AUTO not in self.kinds and not any(kind.ranged for kind in named):
            raise UsageError(
                f"--calibration-method {self.method} is for ranges that are found beforehand, and {' and '.join(self.kinds)} has none; "
                "leave it out, or ask for int8-static or auto"
            )
        if self.kinds and self.calibration is not None:
            check_path(self.calibration)
        if AUTO in self.kinds and self.budget is None:
            raise UsageError(
                "--precision auto needs a budget to keep: --min-cosine 0.999, --min-top1 0.995, --max-perplexity-rise 0.02, "
                "or --metric FILE.py:FUNCTION --max-drop 0.5"
            )


def shrink(
    work: Path, targets: Sequence[tuple[Runtime, str]], wish: Wish, texts: Callable[[], list[str]] | None, say: Progress
) -> tuple[list[Outcome], Manifest]:
    """Write the flavours that `wish` asks for into the bundle folder `work`, and take out what was not asked for.

    Nothing is written where an outcome has a reason against it.

    Raises:
        UsageError, FeedError: calibration that cannot be used; a kind that this model does not have.
        RuntimeMissingError: a package that writes a kind is not installed.
    """
    bundle = open_bundle(work)
    _require_metric(bundle, wish)
    outcomes, made = [], []
    calibration: list[Feeds] = []  # read only when every kind is known to be there
    with tempfile.TemporaryDirectory() as folder:
        workshops = [_workshop(bundle, target, calibration, Path(folder), wish) for target in targets]
        samples = gather(bundle, wish.calibration, texts, wish.seed)
        calibration += samples.calibration
        for workshop in workshops:
            options = LoadOptions(workshop.device, spin=False)
            with open_session(bundle, [workshop.flavour], workshop.runtime, options) as full:
                for name in wish.kinds:
                    outcome, exam = _outcome(workshop, full, samples, wish, name, say)
                    outcomes.append(outcome)
                    if outcome.chosen is not None:
                        made.append((workshop, outcome, exam))
    if any(outcome.reason for outcome in outcomes):
        return outcomes, bundle.manifest
    return outcomes, _written(bundle, made, keep=FP32 in wish.precisions)


def _workshop(bundle: Bundle, target: tuple[Runtime, str], calibration: Sequence[Feeds], folder: Path, wish: Wish) -> Workshop:
    """For a target, on whose model every kind can be had that was asked for. Raises UsageError as `Workshop.kinds`."""
    runtime, device = target
    flavour = bundle.manifest.flavour(f"{runtime.name}:{device}")
    assert flavour is not None
    workshop = Workshop(bundle, flavour, runtime, device, calibration, folder, method=wish.method)
    for name in wish.kinds:
        workshop.kinds(kinds_for(runtime.name)[0].name if name == AUTO else name)
    return workshop


def _require_metric(bundle: Bundle, wish: Wish) -> None:
    """A budget in something that the model does not have would be missed by everything, after a long search."""
    metric = wish.budget.metric if wish.budget else TOP1
    known = [RISE, TOP1] if is_decoder(bundle) else [COSINE, LEAST_COSINE, TOP1]
    if metric not in (*known, *([DROP] if wish.metric else [])):
        what = "a language model with a cache" if is_decoder(bundle) else "a model without a cache"
        raise UsageError(f"a budget of {metric} is none for {what}; it is measured in {', '.join(known)}")


def _outcome(workshop: Workshop, full: Session, samples: Samples, wish: Wish, name: str, say: Progress) -> tuple[Outcome, Exam]:
    target = workshop.flavour.target
    exam = _exam(workshop.bundle, full, samples.search, wish)
    trials = Trials(workshop, full, exam, Memory(workshop, exam), lambda text: say(f"{target}: {text}"))
    alone: dict[str, dict[str, float]] = {}
    if name == AUTO:
        assert wish.budget is not None
        say(f"{target}: looking at each layer alone")
        alone = sensitivities(workshop, kinds_for(workshop.runtime.name))
        found = search(trials, wish.budget, wish.seconds)
    else:
        found = [trials.run(workshop.kinds(name))]
    say(f"{target}: proving the result on inputs that nothing has seen")
    unseen = _exam(workshop.bundle, full, samples.unseen, wish)
    chosen, scores, reason = _chosen(workshop, found, unseen, wish)
    return Outcome(target, tuple(found), chosen, scores, unseen.samples, reason, samples.origin, alone), unseen


def _exam(bundle: Bundle, full: Session, feeds: Sequence[Feeds], wish: Wish) -> Exam:
    if is_decoder(bundle):
        exam: Exam = exams.text_exam(full, feeds)
    else:
        exam = exams.vector_exam(full, feeds, exams.vector_output(bundle.manifest, wish.output))
    return exam if wish.metric is None else MetricExam(exam, wish.metric, measured(wish.metric, full))


def _chosen(workshop: Workshop, found: Sequence[Trial], unseen: Exam, wish: Wish) -> tuple[Trial | None, dict[str, float], str]:
    """The fastest that keeps the budget on what the search has seen and on what it has not; or why there is none."""
    kept = holding(list(found), wish.budget) if wish.budget else list(found)
    if not kept:
        assert wish.budget is not None
        return None, {}, _missed(wish.budget, found)
    ready = [trial for trial in kept if trial.faster or wish.slower]
    if not ready:
        return None, {}, _not_faster(kept)
    for trial in ready:
        scores = _scores(workshop, trial, unseen)
        if wish.budget is None or wish.budget.holds(scores):
            return trial, scores, ""
    assert wish.budget is not None
    return (
        None,
        scores,
        f"{_missed(wish.budget, found)}; on inputs that the search had not seen {ready[-1].name} has "
        + (f"{wish.budget.metric} {scores[wish.budget.metric]:.6g}"),
    )


def _scores(workshop: Workshop, trial: Trial, exam: Exam) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=workshop.folder) as folder:
        path, _ = workshop.make(trial.kinds, Path(folder), "chosen")
        with workshop.load(path, trial.kinds) as session:
            return exam.score(session, bool(trial.token))


def _missed(budget: Budget, found: Sequence[Trial]) -> str:
    best = min(found, key=lambda trial: budget.miss(trial.scores))
    value, miss = best.scores.get(budget.metric, float("nan")), budget.miss(best.scores)
    if miss <= 0:
        return f"{budget} was asked; {best.name} has {value:.6g}"
    return f"{budget} was asked; the best found is {best.name} with {value:.6g}, which misses it by {miss:.3g}"


def _not_faster(kept: Sequence[Trial]) -> str:
    best = min(kept, key=lambda trial: trial.time.value if trial.time else float("inf"))
    assert best.time is not None
    return (
        f"smaller numbers do not pay here: {best.name}, the quickest that is good enough, takes {best.time.value:.2f} "
        f"[{best.time.low:.2f}, {best.time.high:.2f}] of the time at full precision; --allow-slower keeps it all the same"
    )


def _written(bundle: Bundle, made: Sequence[tuple[Workshop, Outcome, Exam]], keep: bool) -> Manifest:
    """The chosen flavours, before those at full precision where these are kept; sealed."""
    work, manifest = bundle.path, bundle.manifest
    unseen = made[0][2]
    by_token = any(outcome.chosen is not None and outcome.chosen.token for _, outcome, _ in made)
    exam = unseen.first(unseen.fitting(by_token))
    output = _output_index(manifest, exam)
    case = write_exam(work, exam, output)
    flavours = [_flavour(workshop, outcome, exam) for workshop, outcome, _ in made]
    if keep:
        flavours += manifest.flavours
    else:
        _remove(bundle, flavours)
    used = {probe for flavour in flavours for probe in flavour.probes}
    probes = tuple(probe for probe in manifest.probes if probe.file in used)
    return seal(work, replace(manifest, flavours=tuple(flavours), exam=case, probes=probes, files={}), MANIFEST)


def _flavour(workshop: Workshop, outcome: Outcome, exam: Exam) -> Flavour:
    trial, full = outcome.chosen, workshop.flavour
    assert trial is not None
    assert trial.time is not None
    precision = label(trial.kinds.values())
    folder, stem = workshop.bundle.path, f"{full.target.replace(':', '-')}-{precision}"
    path, domains = workshop.make(trial.kinds, folder, stem)
    with workshop.load(path, trial.kinds) as session:
        bounds = exams.bounds(exam, exam.score(session, bool(trial.token)))
    quantized = Quantized(
        kinds=trial.used,
        activations=activations_of(trial.kinds),
        samples=outcome.samples,
        scores=outcome.scores,
        bounds=bounds,
        time=_time(trial.time),
        tried=tuple(
            Tried(each.used, each.scores, each.size, _time(each.time), each.kv, each.token)
            for each in outcome.trials
            if each.time
        ),
        kv=trial.kv,
        token=trial.token,
    )
    return replace(full, precision=precision, file=path.name, domains=domains, parity=None, quantized=quantized)


def _time(timed: Timed) -> dict[str, float]:
    found = {"ratio": timed.value, "low": timed.low, "high": timed.high, "seconds": timed.seconds}
    return found if timed.prompt is None else {**found, "prompt": timed.prompt}


def _output_index(manifest: Manifest, exam: Exam) -> int:
    names = [info.name for info in manifest.outputs]
    return names.index(getattr(exam, "output", names[0]))


def _remove(bundle: Bundle, kept: Sequence[Flavour]) -> None:
    """The files of the flavours at full precision, and probes that only they used."""
    used = {name for flavour in kept for name in (flavour.file, weights_of(flavour), *flavour.probes)}
    used |= {str(Path(probe).with_suffix(".bin")) for flavour in kept for probe in flavour.probes}
    for flavour in bundle.manifest.flavours:
        for name in (flavour.file, weights_name(FP32), *flavour.probes):
            if name not in used:
                (bundle.path / name).unlink(missing_ok=True)

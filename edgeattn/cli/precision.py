"""The options of `edgeattn export` about smaller numbers, and the table of what was found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from edgeattn.cli import numbers
from edgeattn.cli.table import table
from edgeattn.errors import UsageError

if TYPE_CHECKING:
    from edgeattn.exporters.quantize.outcome import Outcome
    from edgeattn.exporters.quantize.ranges import Method
    from edgeattn.exporters.quantize.stage import Wish
    from edgeattn.exporters.quantize.trials import Trial

_OPTIONS = (
    click.option(
        "--precision",
        "precisions",
        multiple=True,
        metavar="NAME",
        help="Smaller numbers: `auto` for the fastest that keep a budget, or one of `edgeattn list precisions`, where a cache may have "
        "its own (`int8+kv-int8`); repeatable. "
        "`fp32` beside them keeps full precision in the bundle too. Default: fp32.",
    ),
    click.option("--min-cosine", type=float, help="Budget: the mean cosine of output vectors with those at full precision."),
    click.option("--min-top1", type=float, help="Budget: the share of positions where the largest output is the same."),
    click.option("--max-perplexity-rise", type=float, help="Budget of a language model: 0.02 is a perplexity 2 % higher."),
    click.option("--metric", metavar="FILE.py:FUNCTION", help="Your own metric, f(run) -> float where run(feeds) -> outputs."),
    click.option("--max-drop", type=float, help="Budget: what --metric may lose, in its own units."),
    click.option(
        "--calibration",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Inputs as the model will see them: a text a line (.txt), arrays by input name (.npz, .safetensors), a folder of "
        "those or of images, or FILE.py:FUNCTION, which gives texts or arrays. A part is kept aside to prove the result on.",
    ),
    click.option(
        "--calibration-method",
        type=click.Choice(["minmax", "percentile", "entropy"]),
        help="How the range of a product's inputs is found, for kinds that round with scales found beforehand. Default: the least "
        "and the largest number on onnxruntime, the mean of every sample's on openvino.",
    ),
    click.option("--compare-output", metavar="NAME", help="The output whose vectors are compared."),
    click.option(
        "--search-time", type=float, default=600.0, show_default=True, help="Seconds after which no mixture is begun."
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Which inputs are kept aside."),
    click.option("--allow-slower", is_flag=True, help="Keep smaller numbers that are not faster, for their size."),
)


def options(function: Any) -> Any:
    """All of them."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def wish_of(
    precisions: tuple[str, ...],
    min_cosine: float | None,
    min_top1: float | None,
    max_perplexity_rise: float | None,
    metric: str | None,
    max_drop: float | None,
    calibration: Path | None,
    calibration_method: Method | None,
    compare_output: str | None,
    search_time: float,
    seed: int,
    allow_slower: bool,
) -> Wish | None:
    """What was asked for; None at full precision.

    Raises:
        UsageError: options that do not go together.
    """
    bounds = {"cosine": min_cosine, "top1": min_top1, "perplexity_rise": max_perplexity_rise, "drop": max_drop}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    if not set(precisions) - {"fp32"}:
        if given or metric or calibration or calibration_method:
            raise UsageError("a budget, a metric and calibration are for smaller numbers; add --precision auto")
        return None
    for name, bound in given.items():
        least, most = (-1.0, 1.0) if name in ("cosine", "top1") else (0.0, math.inf)
        if not (math.isfinite(bound) and least <= bound <= most):
            raise UsageError(f"a budget of {name} {bound:g}: expected {f'at most {most:g}' if most == 1 else '0 or more'}")
    if len(given) > 1:
        raise UsageError(f"one budget at a time, got {' and '.join(given)}")
    if (metric is None) != (max_drop is None):
        raise UsageError("--metric and --max-drop go together: the metric, and how much it may lose")
    from edgeattn.exams import Budget
    from edgeattn.exporters.quantize.metric import load_metric
    from edgeattn.exporters.quantize.stage import Wish

    budget = next((Budget(name, bound) for name, bound in given.items()), None)
    function = load_metric(metric) if metric else None
    return Wish(precisions, budget, calibration, function, compare_output, allow_slower, search_time, seed, calibration_method)


def show(outcome: Outcome) -> None:
    """Everything that was tried, the fastest first, how sensitive layers are, and what was chosen."""
    metric = "perplexity_rise" if any("perplexity_rise" in trial.scores for trial in outcome.trials) else "cosine"
    timed = sorted((t for t in outcome.trials if t.time is not None), key=lambda t: t.time.value if t.time else 0.0)
    best = outcome.best
    rows = [_row(trial, metric, trial is outcome.chosen, trial in best) for trial in timed]
    click.echo(f"{outcome.target}: inputs are {outcome.origin}")
    speed = ["prompt", "tokens/s"] if metric == "perplexity_rise" else ["ms"]
    click.echo(table(["", "precision", "time / fp32", *speed, metric, "top1", "size"], rows, right=[*speed, "size"]))
    if outcome.sensitivity:
        click.echo()
        click.echo(table(["each layer alone", "SQNR", "least", "in"], [_alone(*each) for each in outcome.sensitivity.items()]))
        click.echo()
    if outcome.chosen is not None:
        scores = ", ".join(f"{name} {value:.6g}" for name, value in outcome.scores.items())
        click.echo(f"chosen: {outcome.chosen.name}; on {outcome.samples} samples that nothing had seen: {scores}")
    click.echo()


def _alone(kind: str, layers: Mapping[str, float]) -> list[str]:
    """A kind, the middle of all layers' signal over noise, and the layer where it is least."""
    least = min(layers, key=layers.__getitem__)
    first, *merged = least.split("+")
    where = f"{first} and {len(merged)} merged with it" if merged else first
    return [kind, f"{median(layers.values()):.1f} dB", f"{layers[least]:.1f} dB", where]


def _row(trial: Trial, metric: str, chosen: bool, best: bool) -> list[str]:
    time = trial.time
    assert time is not None
    ratio = f"{time.value:.2f} [{time.low:.2f}, {time.high:.2f}]"
    mark = "->" if chosen else "*" if best else ""
    speed = [f"{time.seconds * 1e3:.2f}"] if time.prompt is None else [f"{time.prompt * 1e3:.0f} ms", f"{1 / time.seconds:.1f}"]
    return [
        mark,
        trial.name,
        ratio,
        *speed,
        f"{trial.scores[metric]:.6g}",
        f"{trial.scores['top1']:.4f}",
        numbers.size(trial.size),
    ]

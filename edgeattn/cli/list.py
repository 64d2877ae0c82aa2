"""`edgeattn list`: what can be named on the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import click

from edgeattn.cli import options
from edgeattn.cli.doctor import runtime_facts, runtime_table
from edgeattn.cli.table import table
from edgeattn.errors import RuntimeMissingError, unknown
from edgeattn.progress import progress

KINDS = ("variants", "runtimes", "lowerings", "models", "precisions")


@click.command("list")
@click.argument("kind", metavar="|".join(KINDS))
@click.argument("names", nargs=-1, metavar="[NAME]...")
@options.common
def command(kind: str, names: tuple[str, ...], as_json: bool) -> None:
    """List attention variants (with the form each runtime here gets), runtimes, lowerings (and whether each one's probe
    passes here), the zoo's models, or the precisions of `edgeattn export --precision`.

    \b
    Example:
      edgeattn list lowerings
      edgeattn list variants sliding_window dilated
      edgeattn list runtimes --json

    NAME, one or more, leaves the others out; probing all of them takes half a minute.
    """
    if kind not in KINDS:
        raise unknown("kind of list", kind, KINDS)
    data = _DATA[kind](names)
    if as_json:
        options.print_json({kind: data})
    else:
        click.echo(_TABLES[kind](data))


def _picked(names: tuple[str, ...], known: Sequence[str], kind: str) -> list[str]:
    """`known`, or those of it that were named. Raises UsageError for any other."""
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)
    return [name for name in known if not names or name in names]


def _variants(names: tuple[str, ...]) -> list[dict[str, Any]]:
    try:
        from edgeattn.exporters.survey import survey
    except ImportError as error:
        raise _needs_export(error) from error
    from edgeattn.models import list_variants

    picked = _picked(names, list_variants(), "variant")
    with progress() as say:
        return [dataclasses.asdict(report) for report in survey(picked, say=say)]


def _models(names: tuple[str, ...]) -> list[dict[str, Any]]:
    try:
        from edgeattn.exporters.sources import zoo
    except ImportError as error:
        raise _needs_export(error) from error
    return [
        {
            "name": model.name,
            "summary": model.summary,
            "installed": model.path() is not None,
            "how_to_install": "" if model.path() else zoo.DEMO_COMMAND,
            "licence": model.licence,
        }
        for model in zoo.list_models()
        if model.name in _picked(names, list(zoo.MODELS), "model")
    ]


def _lowerings(names: tuple[str, ...]) -> list[dict[str, Any]]:
    try:
        from edgeattn.exporters.lowerings.describe import describe
        from edgeattn.exporters.lowerings.registry import LOWERINGS
    except ImportError as error:
        raise _needs_export(error) from error
    picked = _picked(names, list(LOWERINGS), "lowering")
    with progress() as say:
        say("probing each lowering on the runtimes that are here")
        return describe(picked)


def _runtimes(names: tuple[str, ...]) -> list[dict[str, Any]]:
    facts = runtime_facts()
    picked = _picked(names, [fact["name"] for fact in facts], "runtime")
    return [fact for fact in facts if fact["name"] in picked]


def _precisions(names: tuple[str, ...]) -> list[dict[str, Any]]:
    try:
        from edgeattn.exporters.quantize.kinds import KINDS as ALL
    except ImportError as error:
        raise _needs_export(error) from error
    picked = _picked(names, sorted({kind.name for kind in ALL}), "precision")
    return [dataclasses.asdict(kind) for kind in ALL if kind.name in picked]


def _needs_export(error: ImportError) -> RuntimeMissingError:
    return RuntimeMissingError(f'this list needs the export tools ({error}); fix: pip install "edgeattn[export,hf]"')


def _variant_table(data: list[dict[str, Any]]) -> str:
    """A column per runtime: the form it gets and the order of its time."""
    targets = list(data[0]["runtimes"])
    rows = [
        [item["name"], item["summary"].partition(": ")[2] or item["summary"], item["paper"].removeprefix("https://")]
        + [_variant_cell(item["runtimes"][target]) for target in targets]
        for item in data
    ]
    return table(["variant", "what", "paper", *targets], rows)


def _variant_cell(verdict: dict[str, Any]) -> str:
    """`blocked, O(S W D)`, `fails`, `not run`."""
    return f"{verdict['lowering']}, O({verdict['time']})" if verdict["status"] == "pass" else str(verdict["status"])


def _model_table(data: list[dict[str, Any]]) -> str:
    rows = [
        [item["name"], item["summary"], "yes" if item["installed"] else f"no: {item['how_to_install']}", item["licence"]]
        for item in data
    ]
    return table(["model", "what", "installed", "licence"], rows)


def _precision_table(data: list[dict[str, Any]]) -> str:
    columns = ("name", "runtime", "weights", "activations", "cache", "summary")
    rows = [[item[column] or "" for column in columns] for item in data]
    return table(["precision", "runtime", "weights", "inputs of products", "cache", "what"], rows)


def _lowering_table(data: list[dict[str, Any]]) -> str:
    """One column per runtime; what a runtime fails at follows below, so that the table stays readable."""
    targets = list(data[0]["runtimes"])
    rows = [
        [item["name"], item["takes"], str(item["opset"]), " ".join(item["domains"]) or "standard"]
        + [_cell(item["runtimes"][target]) for target in targets]
        for item in data
    ]
    lines = table(["lowering", "accepts", "opset", "domains", *targets], rows, right=["opset"])
    notes = [
        f"{item['name']} on {target}, {sample}: {verdict['reason']}"
        for item in data
        for target in targets
        for sample, verdict in item["runtimes"][target].items()
        if verdict["status"] == "fails"
    ]
    return "\n".join([lines, *(["", "what fails here, and so is never used here:", *notes] if notes else [])])


def _cell(verdicts: dict[str, dict[str, str]]) -> str:
    """`proven`, `proven but for softcap`, `fails`, `not run`; what the form itself refuses does not count."""
    statuses = [verdict["status"] for verdict in verdicts.values()]
    failing = [sample for sample, verdict in verdicts.items() if verdict["status"] == "fails"]
    if "not run" in statuses:
        return "not run"
    if "pass" not in statuses:
        return "fails"
    return f"proven but for {', '.join(failing)}" if failing else "proven"


_DATA = {"variants": _variants, "runtimes": _runtimes, "lowerings": _lowerings, "models": _models, "precisions": _precisions}
_TABLES = {
    "variants": _variant_table,
    "runtimes": runtime_table,
    "lowerings": _lowering_table,
    "models": _model_table,
    "precisions": _precision_table,
}

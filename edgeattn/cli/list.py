"""`edgeattn list`: what can be named on the command line."""

from __future__ import annotations

from typing import Any

import click

from edgeattn.cli import options
from edgeattn.cli.doctor import runtime_facts, runtime_table
from edgeattn.cli.table import table
from edgeattn.errors import RuntimeMissingError, unknown
from edgeattn.progress import progress

KINDS = ("variants", "runtimes", "lowerings", "models")


@click.command("list")
@click.argument("kind", metavar="|".join(KINDS))
@options.common
def command(kind: str, as_json: bool) -> None:
    """List attention variants, runtimes, lowerings (and whether each one's probe passes here), or the zoo's models.

    \b
    Example:
      edgeattn list lowerings
      edgeattn list runtimes --json
    """
    if kind not in KINDS:
        raise unknown("kind of list", kind, KINDS)
    data = _DATA[kind]()
    if as_json:
        options.print_json({kind: data})
    else:
        click.echo(_TABLES[kind](data))


def _variants() -> list[dict[str, Any]]:
    from edgeattn.models import list_variants, variant_summary

    return [{"name": name, "summary": variant_summary(name)} for name in list_variants()]


def _models() -> list[dict[str, Any]]:
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
    ]


def _lowerings() -> list[dict[str, Any]]:
    try:
        from edgeattn.exporters.lowerings.describe import describe
    except ImportError as error:
        raise _needs_export(error) from error
    with progress() as say:
        say("probing each lowering on the runtimes that are here")
        return describe()


def _needs_export(error: ImportError) -> RuntimeMissingError:
    return RuntimeMissingError(f'this list needs the export tools ({error}); fix: pip install "edgeattn[export,hf]"')


def _variant_table(data: list[dict[str, Any]]) -> str:
    return table(["variant", "what"], [[item["name"], item["summary"]] for item in data])


def _model_table(data: list[dict[str, Any]]) -> str:
    rows = [
        [item["name"], item["summary"], "yes" if item["installed"] else f"no: {item['how_to_install']}", item["licence"]]
        for item in data
    ]
    return table(["model", "what", "installed", "licence"], rows)


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


_DATA = {"variants": _variants, "runtimes": runtime_facts, "lowerings": _lowerings, "models": _models}
_TABLES = {"variants": _variant_table, "runtimes": runtime_table, "lowerings": _lowering_table, "models": _model_table}

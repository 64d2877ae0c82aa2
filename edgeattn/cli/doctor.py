"""`edgeattn doctor`: what this machine has, and how to get what is missing."""

from __future__ import annotations

from typing import Any

import click

from edgeattn import machine
from edgeattn.cli import options
from edgeattn.cli.table import table
from edgeattn.errors import EdgeAttnError
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import Availability, default_threads


@click.command("doctor")
@options.common
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show the machine, the packages, and for each runtime whether it can be used here, on which devices, and how to get it.

    \b
    Example:
      edgeattn doctor
      edgeattn doctor --json

    Exits with 3 when no runtime can be used.
    """
    found = runtime_facts()
    facts = {**machine.facts(), "threads by default": str(default_threads())}
    packages = machine.package_versions()
    if as_json:
        options.print_json({"machine": facts, "packages": packages, "runtimes": found})
    else:
        click.echo(table(["machine", ""], list(facts.items())))
        click.echo("\n" + table(["package", "version"], list(packages.items())))
        click.echo("\n" + runtime_table(found))
    ctx.exit(0 if any(runtime["ok"] for runtime in found) else 3)


def runtime_facts() -> list[dict[str, Any]]:
    """Every runtime that can be named: availability, version, devices here and devices known."""
    return [_facts(name) for name in registry.names()]


def runtime_table(found: list[dict[str, Any]]) -> str:
    """`runtime_facts` for people."""
    rows = []
    for facts in found:
        state = f"yes, {facts['version']}" if facts["ok"] else f"no: {facts['reason']}"
        absent = [device for device in facts["known_devices"] if device not in facts["devices"]]
        rows.append([facts["name"], state, " ".join(facts["devices"]) or "-", " ".join(absent) or "-", facts["how_to_install"]])
    return table(["runtime", "usable here", "devices", "devices not here", "how to get it"], rows)


def _facts(name: str) -> dict[str, Any]:
    try:
        runtime = registry.get(name)
        availability, known = runtime.check(), list(runtime.known_devices)
        devices = list(runtime.devices()) if availability.ok else []
    except EdgeAttnError as error:  # a broken plug-in must not hide the others
        availability, known, devices = Availability(False, str(error)), [], []
    return {
        "name": name,
        "ok": availability.ok,
        "version": availability.version,
        "reason": availability.reason,
        "how_to_install": "" if availability.ok else availability.how_to_install,
        "devices": devices,
        "known_devices": known,
    }

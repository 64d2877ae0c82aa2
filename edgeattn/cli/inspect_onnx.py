"""`edgeattn inspect FILE.onnx`: which attention a foreign file holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeattn.cli import numbers
from edgeattn.cli.table import table

if TYPE_CHECKING:
    from edgeattn.exporters.inspecting import Inspection
    from edgeattn.manifest import TensorInfo


def sections(found: Inspection) -> list[str]:
    """What is printed, in paragraphs."""
    domains = ", ".join(f"{name or 'ai.onnx'} {version}" for name, version in sorted(found.domains.items()))
    head = [f"{found.path}: {numbers.size(found.size)}, {domains}"]
    head += [f"made by {found.producer}"] if found.producer else []
    missed = "none missed" if not found.unraised else f"{len(found.unraised)} not raised: {', '.join(found.unraised)}"
    return [
        "\n".join(head),
        _tensors("input", found.inputs),
        _tensors("output", found.outputs),
        f"{len(found.sites)} attention sites, {missed}",
        *([_sites(found)] if found.sites else []),
        "\n".join(["`edgeattn export` would:", *(f"  {line}" for line in _changes(found))]),
    ]


def _tensors(kind: str, infos: Sequence[TensorInfo]) -> str:
    return table([kind, "dtype", "shape"], [[info.name, info.dtype, f"[{', '.join(map(str, info.dims))}]"] for info in infos])


def _sites(found: Inspection) -> str:
    rows = [[site.name, site.module, site.form, site.spec.summary()] for site in found.sites]
    return table(["site", "module", "form", "attention"], rows)


def _changes(found: Inspection) -> list[str]:
    """One line per kind of change, with how often it happens."""
    changes = Counter(
        f"write {site.form} as {lowering} for {target}" for site in found.sites for target, lowering in site.lowerings.items()
    )
    lines = [f"{change} ({count} site{'s' * (count > 1)})" for change, count in changes.items()]
    lines += [f"write {name} in operators of ai.onnx ({count} of them)" for name, count in found.rewritten.items()]
    lines += [f"leave {name} as it is" for name in found.unraised]
    return lines or ["leave the graph as it is: it holds no attention"]

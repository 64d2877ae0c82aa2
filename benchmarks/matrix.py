"""docs/MATRIX.md: every variant on every runtime in every form, and what the runtimes do without edgeattn.

python benchmarks/matrix.py > docs/MATRIX.md
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx
import torch
from bare import LENGTHS, OPSETS, bare_verdicts

from edgeattn.exporters import conformance
from edgeattn.exporters.lowerings.registry import WHOLE
from edgeattn.exporters.sources.variant import from_variant
from edgeattn.exporters.survey import VariantReport, survey
from edgeattn.runtimes import registry

RUNTIMES = ("onnxruntime", "openvino")
MARKS = {"pass": "proven", "refused": "·", "fails": "**fails**"}


def main() -> None:
    """Survey, print as Markdown; progress goes to stderr."""
    reports = survey(full=True, say=lambda text: print(text, file=sys.stderr))
    versions = {"onnx": onnx.__version__, "torch": torch.__version__} | {n: registry.get(n).check().version for n in RUNTIMES}
    print("# Variants, forms and runtimes\n")
    print(
        "Written by `python benchmarks/matrix.py > docs/MATRIX.md` with " + ", ".join(f"{n} {v}" for n, v in versions.items())
    )
    print("on a CPU. Nothing here was typed by hand.\n")
    _chosen(reports)
    for runtime in RUNTIMES:
        _forms(reports, runtime)
    _reasons(reports)
    _standard()


def _chosen(reports: Sequence[VariantReport]) -> None:
    print("## What each variant becomes\n")
    print(
        "The form an export chooses for the variant's small example, with the order of its time and of the memory it holds\n"
        "beside inputs and output, for one head (S queries, T keys, D head size, W keys a query sees, G global positions).\n"
        "*torch alone* is torch.onnx.export of the same module, edgeattn left out, on the same runtime, at opset "
        f"{' and '.join(map(str, OPSETS))}\nand lengths {', '.join(map(str, LENGTHS))}, run one after the other in one session.\n"
    )
    columns = [f"{title} {runtime}" for runtime in RUNTIMES for title in ("edgeattn,", "torch alone,")]
    rows = []
    for report in reports:
        print(f"torch alone: {report.name}", file=sys.stderr)
        bare = bare_verdicts(from_variant(report.name), RUNTIMES)
        cells = [cell for runtime in RUNTIMES for cell in (_cost(report, runtime), _emphasized(bare[runtime]))]
        rows.append([f"[{report.name}]({report.paper})", report.spec, *cells])
    _table(["variant", "core", *columns], rows)


def _cost(report: VariantReport, runtime: str) -> str:
    verdict = report.runtimes[runtime]
    if verdict.status != "pass":
        return f"**{verdict.status}**: {verdict.reason}"
    return f"{verdict.lowering}: time {verdict.time}, memory {verdict.memory}"


def _emphasized(verdict: str) -> str:
    return verdict if verdict == "right" else f"**{verdict}**"


def _forms(reports: Sequence[VariantReport], runtime: str) -> None:
    print(f"## Every form on {runtime}\n")
    print("*proven*: its probe passes here. A dot: the form cannot express the variant's core, for a reason given below.\n")
    rows = [
        [report.name, *(MARKS[form.status] for form in report.runtimes[runtime].forms)]
        for report in reports
        if report.runtimes[runtime].forms
    ]
    _table(["variant", *WHOLE], rows)


def _reasons(reports: Sequence[VariantReport]) -> None:
    """Each distinct reason once per form, with the variants it holds for."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for report in reports:
        for runtime, verdict in report.runtimes.items():
            for form in verdict.forms:
                if form.status != "pass":
                    where = f" ({runtime})" if form.status == "fails" else ""
                    found.setdefault((form.lowering, form.reason + where), {})[report.name] = None
    print("## Why a form is not used\n")
    _table(
        ["form", "reason", "variants"], [[form, reason, ", ".join(names)] for (form, reason), names in sorted(found.items())]
    )


def _standard() -> None:
    print("## The standard's own test cases\n")
    print(
        "Each case of the ONNX node tests, raised to canonical form and lowered as an export does it, beside the same case as it\n"
        "is shipped. *Wrong*: it ran without an error and gave other numbers. *Inexpressible*: no canonical form; `pytest\n"
        "tests/exporters/test_conformance.py` holds the list with a reason for each.\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        results = list(conformance.collect(list(conformance.cases()), [registry.get(name) for name in RUNTIMES], Path(folder)))
    rows = []
    for total in conformance.totals(results):
        ours = [total.ours.get(status, 0) for status in ("pass", "wrong", "error", "inexpressible")]
        bare = [total.bare.get(status, 0) for status in ("pass", "wrong", "error")]
        rows.append([total.runtime, total.operator, *map(str, (total.cases, *ours, *bare))])
    ways = [f"ours: {status}" for status in ("pass", "wrong", "error", "inexpressible")]
    _table(["runtime", "operator", "cases", *ways, *(f"bare: {status}" for status in ("pass", "wrong", "error"))], rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |")
    print()


if __name__ == "__main__":
    main()

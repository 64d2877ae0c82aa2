"""A check report as JUnit XML: one suite per target, one test per golden case."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from edgeattn.checking import CaseCheck, CheckReport, TargetCheck


def write_junit(report: CheckReport, path: Path) -> None:
    """Write `report` to `path`. Raises OSError where that cannot be written."""
    root = Element("testsuites", name=f"edgeattn check {report.bundle}")
    for target in report.targets:
        _suite(root, target)
    indent(root)
    ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _suite(root: Element, target: TargetCheck) -> None:
    suite = SubElement(root, "testsuite", name=target.label)
    for case in target.cases:
        _case(suite, target, case)
    if not target.cases:
        test = SubElement(suite, "testcase", classname=target.label, name="load", time="0")
        kind = "skipped" if target.status == "skipped" else "error"
        SubElement(test, kind, message=_clean(target.reason))
    tests = list(suite)
    for kind, plural in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(plural, str(sum(1 for test in tests if test.find(kind) is not None)))
    suite.set("tests", str(len(tests)))


def _case(suite: Element, target: TargetCheck, case: CaseCheck) -> None:
    test = SubElement(suite, "testcase", classname=target.label, name=case.name, time=f"{case.seconds:.6f}")
    if case.reason:
        SubElement(test, "error", message=_clean(case.reason))
    elif not case.passed:
        wrong = [f"{c.output}: {c.reason}" for c in case.comparisons if not c.passed]
        SubElement(test, "failure", message=_clean("; ".join(wrong) or "nothing was compared"))
    lines = [f"{c.output}: max {c.max_abs:.3g}, mean {c.mean_abs:.3g}, SQNR {c.sqnr_db:.1f} dB" for c in case.comparisons]
    SubElement(test, "system-out").text = _clean("\n".join([target.effective, *lines]))


def _clean(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(char for char in text if char >= " " or char in "\n\t")

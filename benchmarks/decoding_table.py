"""What `decoding.py` found, as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def show(report: dict[str, Any]) -> None:
    """One row for each candidate, then ours over each other one; the same again for near and far cores where there were both."""
    cases = list(dict.fromkeys(case for row in report["rows"] for case in row["cases"]))
    _print([_heads(cases), *(_cells(row, cases) for row in report["rows"])])
    print(
        "\nms: from the prompt to the first token. tok/s: behind so many tokens. Peak MB, each in a process of its own: after"
    )
    print("a prompt and 16 tokens, and behind the longest past. B/token: what the cache takes for a position.\n")
    _show_ratios(report["ratios"], cases)
    for title, part in report["by_distance"].items():
        if len(report["by_distance"]) > 1:
            counts = ", ".join(f"{count} {case}" for case, count in part["rounds"].items())
            print(f"Rounds with {title} ({counts}):\n")
            _print([["candidate", *_units(cases)], *([row["candidate"], *_times(row, cases)] for row in part["rows"])])
            print()
            _show_ratios(part["ratios"], cases)
    print("In brackets: what holds the ratio 95 times in 100; below 1, ours is faster, and ~ stands where 1 is in it.")


def _show_ratios(found: Sequence[dict[str, Any]], cases: Sequence[str]) -> None:
    ratios = {(ratio["ours"], ratio["peer"], ratio["case"]): ratio for ratio in found}
    for ours in dict.fromkeys(key[0] for key in ratios):
        peers = dict.fromkeys(key[1] for key in ratios if key[0] == ours)
        rows = [[peer, *(_ratio(ratios.get((ours, peer, case))) for case in cases)] for peer in peers]
        _print([[f"time of {ours} / it", *cases], *rows])
        print()


def _units(cases: Sequence[str]) -> list[str]:
    return [f"{case}, {'ms' if case.startswith('prompt') else 'tok/s'}" for case in cases]


def _times(row: dict[str, Any], cases: Sequence[str]) -> list[str]:
    return [_time(case, row["cases"].get(case)) for case in cases]


def _heads(cases: Sequence[str]) -> list[str]:
    return ["candidate", *_units(cases), "peak MB", "longest", "B/token", "what"]


def _cells(row: dict[str, Any], cases: Sequence[str]) -> list[str]:
    if row["wrong"]:
        return [row["candidate"], f"not timed: {row['wrong']}"]
    memory = row.get("memory", {})
    peaks = [f"{memory[name]:.0f}" if memory.get(name) else "-" for name in ("prompt_mb", "longest_mb")]
    return [row["candidate"], *_times(row, cases), *peaks, str(row.get("cache_bytes_per_token", "-")), row["about"]]


def _time(case: str, summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "-"
    return f"{summary['median_ms']:.0f}" if case.startswith("prompt") else f"{1e3 / summary['median_ms']:.1f}"


def _ratio(ratio: dict[str, Any] | None) -> str:
    if ratio is None:
        return "-"
    mark = "~" if ratio["verdict"] == "inconclusive" else ""
    return f"{mark}{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def _print(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[place]) for row in rows if place < len(row)) for place in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())

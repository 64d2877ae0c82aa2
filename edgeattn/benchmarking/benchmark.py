"""Latency of bundles on runtimes: parity first, then interleaved timing of those that passed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from edgeattn import machine
from edgeattn.benchmarking.feeds import make_feeds, resolve_sizes
from edgeattn.benchmarking.fresh import Fresh, measure_fresh
from edgeattn.benchmarking.interleave import interleave
from edgeattn.benchmarking.stats import Ratio, Summary, compare_timings, summarize
from edgeattn.bundle import Bundle, open_bundle
from edgeattn.checking import TargetCheck, check, target_options
from edgeattn.errors import EdgeAttnError, RuntimeRunError, UsageError
from edgeattn.loading import BundlePath, open_session, pick_flavours
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import Session, library_paths

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One bundle on one target. `latency` is None for what did not pass parity; `reason` says why."""

    bundle: str
    parity: TargetCheck
    size: int
    """Bytes of the graph and its weights."""
    effective: str = ""
    latency: Summary | None = None
    ratio: Ratio | None = None
    """To the first row that was timed, which has None."""
    fresh: Fresh | None = None
    reason: str = ""

    @property
    def target(self) -> str:
        """`onnxruntime:cpu`."""
        return self.parity.target


@dataclass(frozen=True, slots=True)
class BenchReport:
    """Rows in the order asked for, and what they were measured with."""

    rows: tuple[Row, ...]
    sizes: dict[str, int]
    machine: dict[str, str]
    packages: dict[str, str]

    @property
    def passed(self) -> bool:
        """Something was timed, and every target that is here passed parity."""
        statuses = {row.parity.status for row in self.rows}
        return any(row.latency for row in self.rows) and statuses <= {"passed", "skipped"} and not self.broken

    @property
    def broken(self) -> bool:
        """A target that passed parity could not be timed."""
        return any(row.parity.passed and row.latency is None for row in self.rows)

    @property
    def exit_code(self) -> int:
        """0 fine, 1 a target failed parity or could not be timed, 3 a runtime or device is missing."""
        if self.passed:
            return 0
        return 1 if self.broken or any(row.parity.status in ("failed", "error") for row in self.rows) else 3

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        rows = []
        for row in self.rows:
            numbers = {name: getattr(row, name) for name in ("latency", "ratio", "fresh")}
            data = {name: dataclasses.asdict(value) if value else None for name, value in numbers.items()}
            head = {"bundle": row.bundle, "target": row.target, "size": row.size, "effective": row.effective}
            rows.append({**head, "reason": row.reason, "parity": row.parity.to_dict(), **data})
        return {
            "passed": self.passed,
            "sizes": self.sizes,
            "machine": self.machine,
            "packages": self.packages,
            "rows": rows,
        }


def bench(
    bundle: BundlePath | Bundle,
    runtimes: Sequence[str] | None = None,
    sizes: Mapping[str, int] | None = None,
    *,
    repeats: int = 50,
    warmup: int = 5,
    threads: int | None = None,
    custom_ops: Iterable[str | os.PathLike[str]] = (),
    progress: Progress | None = None,
) -> BenchReport:
    """Time a bundle on each of `runtimes` (None: every target it was made for), at one choice of dynamic sizes.

    `sizes` defaults to batch 1 and sequence 128. A target that fails its parity check gets no latency. `custom_ops` are
    native libraries, as in `edgeattn.check`.

    Raises:
        BundleError, UsageError: as `edgeattn.check`; also for an unknown dimension or a size over the model's limit.
    """
    libraries = library_paths(custom_ops)
    return measure(
        [bundle], runtimes, sizes, repeats=repeats, warmup=warmup, threads=threads, libraries=libraries, progress=progress
    )


def measure(
    bundles: Sequence[BundlePath | Bundle],
    runtimes: Sequence[str] | None,
    sizes: Mapping[str, int] | None,
    *,
    repeats: int,
    warmup: int,
    threads: int | None,
    libraries: tuple[str, ...] = (),
    progress: Progress | None,
) -> BenchReport:
    """As `bench`, over several bundles; everything that passed parity is timed in the same rounds."""
    if repeats < 1 or warmup < 0:
        raise UsageError(f"need at least 1 repeat and no negative warm-up, got {repeats} and {warmup}")
    opened = [item if isinstance(item, Bundle) else open_bundle(item) for item in bundles]
    resolved = [resolve_sizes(bundle, sizes) for bundle in opened]
    pairs: list[tuple[int, Row]] = []
    for index, bundle in enumerate(opened):
        for target in check(bundle, runtimes, threads=threads, custom_ops=libraries, progress=progress).targets:
            if not target.part:
                pairs.append((index, _row(bundle, target)))
    _say(progress, f"timing, {repeats} rounds")
    rows = _time(pairs, opened, resolved, repeats, warmup, threads, libraries)
    _say(progress, "measuring load time and memory in fresh processes")
    rows = [
        _with_fresh(row, opened[index], resolved[index], threads, libraries)
        for (index, _), row in zip(pairs, rows, strict=True)
    ]
    merged = {name: size for sizes_ in resolved for name, size in sizes_.items()}
    return BenchReport(tuple(rows), merged, machine.facts(), machine.package_versions())


def _row(bundle: Bundle, target: TargetCheck) -> Row:
    flavours = bundle.manifest.flavours_for(target.flavour, target.precision or None) if target.flavour else ()
    size = bundle.flavour_size(*flavours)
    return Row(bundle.path.name, target, size, target.effective, reason=target.reason)


def _time(
    pairs: Sequence[tuple[int, Row]],
    bundles: Sequence[Bundle],
    sizes: Sequence[Mapping[str, int]],
    repeats: int,
    warmup: int,
    threads: int | None,
    libraries: tuple[str, ...],
) -> list[Row]:
    rows = [row for _, row in pairs]
    runs: dict[int, Callable[[], object]] = {}
    with ExitStack() as stack:
        for place, (index, row) in enumerate(pairs):
            if not row.parity.passed:
                continue
            try:
                session = stack.enter_context(_session(bundles[index], row, threads, libraries))
                runs[place] = _runner(session, bundles[index], sizes[index])
                rows[place] = replace(row, effective=session.effective.summary())
            except EdgeAttnError as error:
                rows[place] = replace(row, reason=f"not timed: {error}")
        timings = dict(zip(runs, interleave(list(runs.values()), repeats, warmup), strict=True))
    first = next(iter(timings.values()), None)
    for place, seconds in timings.items():
        ratio = compare_timings(seconds, first) if first is not None and seconds is not first else None
        rows[place] = replace(rows[place], latency=summarize(seconds), ratio=ratio)
    return rows


def _session(bundle: Bundle, row: Row, threads: int | None, libraries: tuple[str, ...]) -> Session:
    """Loaded without busy-waiting workers, which would steal from the candidates timed in turn."""
    runtime, device = registry.parse_target(row.target)
    flavours = pick_flavours(bundle, runtime, device, precision=row.parity.precision or None)
    return open_session(bundle, flavours, runtime, target_options(runtime, device, threads, libraries, spin=False))


def _runner(session: Session, bundle: Bundle, sizes: Mapping[str, int]) -> Callable[[], object]:
    feeds = make_feeds(bundle, sizes)
    session.run(feeds)
    return lambda: session.run(feeds)


def _with_fresh(row: Row, bundle: Bundle, sizes: Mapping[str, int], threads: int | None, libraries: tuple[str, ...]) -> Row:
    if row.latency is None:
        return row
    runtime, device = registry.parse_target(row.target)
    options = target_options(runtime, device, threads, libraries)
    try:
        return replace(
            row, fresh=measure_fresh(bundle, runtime.name, options, (row.parity.flavour, row.parity.precision), sizes)
        )
    except RuntimeRunError as error:
        return replace(row, reason=str(error))


def _say(progress: Progress | None, text: str) -> None:
    if progress:
        progress(text)

"""A metric of the user's own: a function that is given a way to run the model, and says how good it is."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.errors import UsageError
from edgeattn.exams import DROP, Exam
from edgeattn.exporters.quantize.functions import load_function
from edgeattn.runtimes.base import Session

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]
Metric = Callable[[Run], float]
"""Given `run(feeds) -> outputs`, how good the model is, in units of its own; more is better."""


def load_metric(text: str) -> Metric:
    """The function that `path/to/file.py:name` says. Raises UsageError as `load_function`."""
    return load_function(text, "--metric")


@dataclass(frozen=True, slots=True)
class MetricExam(Exam):
    """Another exam, and by how much the user's metric is below `full`, that of the full model."""

    inner: Exam
    metric: Metric
    full: float

    @property
    def samples(self) -> int:
        return self.inner.samples

    @property
    def identity(self) -> str:
        return f"{self.full} {_source(self.metric)}"

    def score(self, session: Session, by_token: bool = False) -> dict[str, float]:
        value = measured(self.metric, session)
        return {**self.inner.score(session, by_token), "metric": value, DROP: self.full - value}

    @property
    def units(self) -> int:
        return self.inner.units

    def fitting(self, by_token: bool = False) -> int:
        return self.inner.fitting(by_token)

    def first(self, count: int) -> Exam:
        return self.inner.first(count)

    def tensors(self, count: int) -> tuple[dict[str, Array], dict[str, Array]]:
        return self.inner.tensors(count)


def measured(metric: Metric, session: Session) -> float:
    """What the metric says of a session. Raises UsageError where it fails, or gives no finite number."""
    try:
        value = float(metric(session.run))
    except Exception as error:
        raise UsageError(f"--metric failed: {type(error).__name__}: {error}") from error
    if not np.isfinite(value):
        raise UsageError(f"--metric gave {value}; expected a finite number, more being better")
    return value


def _source(metric: Metric) -> str:
    """The name of a function and the file that it is in; of anything else, what no other object of this process has."""
    try:
        file = inspect.getsourcefile(metric)
        return f"{metric.__qualname__} {Path(str(file)).read_text()}"
    except (OSError, TypeError, AttributeError, UnicodeError):
        return f"{metric!r} {os.getpid()}"

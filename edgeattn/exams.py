"""How far a model with smaller numbers is from the one with all of them, as numbers that people state budgets in.

An exam holds inputs and what the full model says of them; a bundle keeps one, so that a device can examine again.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.buckets import sizes_of
from edgeattn.bundle import Bundle
from edgeattn.decoding.session import DecoderSession
from edgeattn.errors import BundleError, FeedError
from edgeattn.golden import read_case
from edgeattn.manifest import TOKENS, GoldenCase, Manifest, OutputInfo
from edgeattn.runtimes.base import Session, validate_feeds
from edgeattn.tensors import write_tensors

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Ints = NDArray[np.int64]

COSINE, LEAST_COSINE, TOP1, RISE, DROP = "cosine", "least_cosine", "top1", "perplexity_rise", "drop"
METRICS: dict[str, tuple[str, int]] = {
    COSINE: ("mean cosine of output vectors", 1),
    LEAST_COSINE: ("least cosine of an output vector", 1),
    TOP1: ("share of positions with the same largest output", 1),
    RISE: ("perplexity over the full model's, less 1", -1),
    DROP: ("what your metric loses", -1),
}
"""Name -> what it is, and 1 where more is better."""
_NLL, _TOP = "nll", "top"
_FILE = "golden/exam.safetensors"
_KEPT, _KEPT_BYTES, _KEPT_BY_TOKEN = 64, 2 << 20, 8
"""A bundle keeps at most so many samples, or windows of a text, and of vectors at most so many bytes; and so many windows
where half of each is read token by token, which takes a device a while."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The worst that a metric may be."""

    metric: str
    bound: float

    def holds(self, scores: Mapping[str, float]) -> bool:
        """Whether `scores` keep it; a number that is not finite never does."""
        return self.miss(scores) <= 0

    @property
    def perfect(self) -> float:
        """What full precision scores against itself."""
        return 1.0 if METRICS[self.metric][1] > 0 else 0.0

    @property
    def allowed(self) -> float:
        """How much worse than full precision the bound is."""
        return abs(self.perfect - self.bound)

    def miss(self, scores: Mapping[str, float]) -> float:
        """By how much `scores` are worse than the bound; 0 or less where they hold it."""
        value = scores.get(self.metric, float("nan"))
        return (self.bound - value) * METRICS[self.metric][1] if np.isfinite(value) else float("inf")

    def __str__(self) -> str:
        return f"{self.metric} {'at least' if METRICS[self.metric][1] > 0 else 'at most'} {self.bound:g}"


class Exam(abc.ABC):
    """Inputs with what the full model says of them."""

    @property
    @abc.abstractmethod
    def samples(self) -> int:
        """How many inputs (or tokens) are scored."""

    @property
    @abc.abstractmethod
    def units(self) -> int:
        """How many samples (or windows) there are."""

    @property
    def identity(self) -> str:
        """What scores depend on besides the samples and what the full model says of them."""
        return ""

    @abc.abstractmethod
    def score(self, session: Session, by_token: bool = False) -> dict[str, float]:
        """Metric -> value. `by_token`: a language model has a graph of its own for a single token, which is to be heard too."""

    @abc.abstractmethod
    def fitting(self, by_token: bool = False) -> int:
        """How many samples (or windows) a bundle keeps; fewer where they are read `by_token`."""

    @abc.abstractmethod
    def first(self, count: int) -> Exam:
        """The exam of the first `count` samples (or windows)."""

    @abc.abstractmethod
    def tensors(self, count: int) -> tuple[dict[str, Array], dict[str, Array]]:
        """The first `count` samples as the inputs and outputs of a case in a bundle."""


@dataclass(frozen=True, slots=True)
class VectorExam(Exam):
    """One output's vectors along its last axis: rows of an embedding, tokens of a sequence, logits of a class.

    Each of `feeds` is one sample, B = 1 and nothing of it padding; `truth` has the full model's output for it.
    """

    output: str
    feeds: Sequence[Feeds]
    truth: Sequence[Array]

    @property
    def samples(self) -> int:
        return len(self.feeds)

    @property
    def units(self) -> int:
        return len(self.feeds)

    def score(self, session: Session, by_token: bool = False) -> dict[str, float]:
        cosines, same = [], []
        for feeds, expected in zip(self.feeds, self.truth, strict=True):
            got = session.run(feeds)[self.output].astype(np.float64)
            if got.shape != expected.shape:
                raise BundleError(f"{self.output} is {got.shape}, its exam holds {expected.shape}; export the model again")
            norms = np.linalg.norm(got, axis=-1) * np.linalg.norm(expected.astype(np.float64), axis=-1)
            cosines.append((got * expected).sum(axis=-1).reshape(-1) / np.maximum(norms, np.finfo(np.float64).tiny).reshape(-1))
            same.append((got.argmax(axis=-1) == expected.argmax(axis=-1)).reshape(-1))
        every = np.concatenate(cosines)
        return {COSINE: float(every.mean()), LEAST_COSINE: float(every.min()), TOP1: float(np.concatenate(same).mean())}

    def fitting(self, by_token: bool = False) -> int:
        sizes = np.cumsum([array.nbytes for array in self.truth])
        return max(1, min(_KEPT, int((sizes <= _KEPT_BYTES).sum())))

    def first(self, count: int) -> VectorExam:
        return VectorExam(self.output, self.feeds[:count], self.truth[:count])

    def tensors(self, count: int) -> tuple[dict[str, Array], dict[str, Array]]:
        """Numbered: samples have lengths of their own."""
        chosen = range(min(count, self.samples))
        inputs = {f"{i}.{name}": array for i in chosen for name, array in self.feeds[i].items()}
        return inputs, {f"{i}.{self.output}": self.truth[i] for i in chosen}


@dataclass(frozen=True, slots=True)
class TextExam(Exam):
    """A language model reads windows of a text: `tokens` (N, S), the full model's negative log-likelihood of each token but
    the first, `nll` (N, S - 1) in nats, and what it held likeliest there, `top` (N, S - 1)."""

    tokens: Ints
    nll: NDArray[np.float32]
    top: Ints

    @property
    def samples(self) -> int:
        return int(self.nll.size)

    @property
    def units(self) -> int:
        return len(self.tokens)

    def score(self, session: Session, by_token: bool = False) -> dict[str, float]:
        nll, top = read_text(session, self.tokens, by_token)
        ratio = float(np.exp(nll.mean(dtype=np.float64) - self.nll.mean(dtype=np.float64)))
        return {RISE: ratio - 1, "perplexity": float(np.exp(nll.mean(dtype=np.float64))), TOP1: float((top == self.top).mean())}

    def fitting(self, by_token: bool = False) -> int:
        return min(_KEPT_BY_TOKEN if by_token else _KEPT, len(self.tokens))

    def first(self, count: int) -> TextExam:
        return TextExam(self.tokens[:count], self.nll[:count], self.top[:count])

    def tensors(self, count: int) -> tuple[dict[str, Array], dict[str, Array]]:
        return {TOKENS: self.tokens[:count]}, {_NLL: self.nll[:count], _TOP: self.top[:count]}


def read_text(session: Session, tokens: Ints, by_token: bool = False) -> tuple[NDArray[np.float32], Ints]:
    """What a language model says of every token but the first of windows (N, S), each read alone: its negative log-likelihood
    and the likeliest token instead, (N, S - 1).

    The second half is read behind the first, so that what a cache loses is seen (a prompt does not read its own), and `by_token` one
    token after the other.
    """
    decoder = DecoderSession(session)
    nll, top = [], []
    for window in tokens:
        decoder.reset()
        first, second = np.array_split(window, 2)
        parts = [first, *(np.array_split(second, len(second)) if by_token and len(second) else [second])]
        logits = np.concatenate([decoder.prefill(part[None])[0] for part in parts if part.size])[:-1]
        peak = logits.max(axis=-1, keepdims=True)
        total = np.log(np.exp(logits - peak).sum(axis=-1, dtype=np.float64)) + peak[:, 0]
        nll.append(total - logits[np.arange(len(logits)), window[1:]])
        top.append(logits.argmax(axis=-1))
    decoder.reset()
    return np.array(nll, dtype=np.float32), np.array(top, dtype=np.int64)


def write_exam(folder: Path, exam: Exam, output: int) -> GoldenCase:
    """Keep some samples of `exam` in a bundle folder; `output` is the index of what a `VectorExam` looks at."""
    count = exam.fitting()
    inputs, outputs = exam.tensors(count)
    tensors = {
        **{f"in.{name}": array for name, array in inputs.items()},
        **{f"out.{name}": array for name, array in outputs.items()},
    }
    (folder / _FILE).parent.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / _FILE, tensors)
    return GoldenCase(_FILE, {"output": output, "samples": count} if isinstance(exam, VectorExam) else {}, {})


def read_exam(bundle: Bundle) -> Exam | None:
    """The exam that a bundle holds, if it holds one.

    Raises:
        BundleError: it is malformed.
    """
    case = bundle.manifest.exam
    if case is None:
        return None
    if "output" not in case.sizes:
        golden = read_case(bundle, case, ((TOKENS,), (_NLL, _TOP)))
        tokens, nll, top = golden.inputs[TOKENS], golden.outputs[_NLL], golden.outputs[_TOP]
        fits = tokens.ndim == 2 and tokens.size and nll.size and nll.shape == top.shape == (len(tokens), tokens.shape[1] - 1)
        if not fits or (tokens.dtype.kind, nll.dtype.kind, top.dtype.kind) != ("i", "f", "i"):
            raise BundleError(
                f"{case.file}: tokens {tokens.dtype} {tokens.shape} and what is said of them, {nll.dtype} {nll.shape} and "
                f"{top.dtype} {top.shape}, do not go together; export the model again"
            )
        return TextExam(tokens, nll, top)
    index, count = case.sizes["output"], case.sizes.get("samples", 0)
    if not 0 <= index < len(bundle.manifest.outputs) or count < 1:
        raise BundleError(f"{case.file}: output {index} with {count} samples; export the model again")
    output = bundle.manifest.outputs[index].name
    names = [info.name for info in bundle.manifest.inputs]
    wanted = ([f"{i}.{name}" for i in range(count) for name in names], [f"{i}.{output}" for i in range(count)])
    golden = read_case(bundle, case, wanted)
    feeds = [{name: golden.inputs[f"{i}.{name}"] for name in names} for i in range(count)]
    truth = [golden.outputs[f"{i}.{output}"] for i in range(count)]
    for sample, array in zip(feeds, truth, strict=True):
        _check_sample(case.file, bundle.manifest, bundle.manifest.outputs[index], sample, array)
    return VectorExam(output, feeds, truth)


def _check_sample(file: str, manifest: Manifest, output: OutputInfo, feeds: Feeds, truth: Array) -> None:
    try:
        sizes = sizes_of(manifest.inputs, validate_feeds(manifest.inputs, feeds))
    except FeedError as error:
        raise BundleError(f"{file}: a sample is damaged ({error}); export the model again") from error
    known = [dim if isinstance(dim, int) else sizes.get(dim) for dim in output.dims]
    agree = len(known) == truth.ndim and all(size in (None, own) for size, own in zip(known, truth.shape, strict=True))
    if not agree or not truth.size or truth.dtype.kind != "f":
        raise BundleError(
            f"{file}: {output.name} is {truth.dtype} {truth.shape} for a sample, and {list(output.dims)} in the manifest; "
            "export the model again"
        )

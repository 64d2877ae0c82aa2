"""Exams made from samples, with what the flavour at full precision says of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeattn.errors import UsageError, unknown
from edgeattn.exams import Exam, TextExam, VectorExam, read_text
from edgeattn.exporters.quantize.samples import Feeds
from edgeattn.manifest import TOKENS, Manifest, OutputInfo
from edgeattn.runtimes.base import Session

_POOLED = ("sentence_embedding", "logits", "text_embeds", "image_embeds", "pooler_output")
"""Outputs that people use, before those that they are made of."""


def vector_output(manifest: Manifest, asked: str | None) -> OutputInfo:
    """The output whose vectors are compared: the one asked for, else the one that people use, else the first.

    Raises:
        UsageError: there is none of that name, or none with numbers.
    """
    real = {info.name: info for info in manifest.outputs if info.dtype.startswith("float")}
    if asked is not None:
        if asked not in real:
            raise unknown("output", asked, real)
        return real[asked]
    if not real:
        raise UsageError("the model has no output of real numbers, so nothing says how far smaller numbers are from it")
    return next((real[name] for name in _POOLED if name in real), next(iter(real.values())))


def vector_exam(full: Session, feeds: Sequence[Feeds], output: OutputInfo) -> VectorExam:
    """What `full` gives for each sample."""
    truth = [np.array(full.run(sample)[output.name]) for sample in feeds]
    return VectorExam(output.name, feeds, truth)


def text_exam(full: Session, windows: Sequence[Feeds]) -> TextExam:
    """What `full` says of windows of a text; all are cut to the shortest."""
    length = min(window[TOKENS].shape[1] for window in windows)
    tokens = np.concatenate([window[TOKENS][:, :length] for window in windows])
    return TextExam(tokens, *read_text(full, tokens))


def bounds(exam: Exam, scores: dict[str, float]) -> dict[str, float]:
    """What a bundle's exam has to keep on a device: what it scored here, with a quarter of the loss to spare."""
    if isinstance(exam, VectorExam):
        return {"cosine": 1 - (1 - scores["cosine"]) * 1.25 - 1e-6}
    return {"perplexity_rise": scores["perplexity_rise"] + 0.25 * abs(scores["perplexity_rise"]) + 1e-3}

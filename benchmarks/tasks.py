"""What people said of texts and words, from gensim's test data (gensim itself is not imported), and how far embeddings agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Embed = Callable[[Sequence[str]], Array]
"""Texts -> (N, C), of unit length."""


def data(name: str) -> Path:
    """A file of gensim's test data. Exits where gensim is not installed."""
    spec = find_spec("gensim")
    if spec is None or spec.origin is None:
        raise SystemExit(f"{name} comes with gensim; fix: pip install --no-deps -r requirements-demo.txt")
    return Path(spec.origin).parent / "test" / "test_data" / name


def lee() -> tuple[list[str], Array]:
    """50 news documents, and the upper triangle of the human similarity matrix (Lee, Pincombe and Welsh 2005)."""
    documents = data("lee.cor").read_text(encoding="latin1").splitlines()
    judged = np.loadtxt(data("similarities0-1.txt"))
    return documents, judged[np.triu_indices(len(documents), 1)]


def pairs(name: str) -> tuple[list[tuple[str, str]], Array]:
    """Pairs of words and what people said of each, of SimLex-999 or WordSim-353."""
    rows = [line.split() for line in data(name).read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return [(row[0], row[1]) for row in rows], np.array([float(row[2]) for row in rows])


def pearson(embeddings: Array, judged: Array) -> float:
    """Correlation of cosine similarities with the judgements; embeddings (N, C) of unit length."""
    similar = (embeddings @ embeddings.T)[np.triu_indices(len(embeddings), 1)]
    return float(np.corrcoef(similar, judged)[0, 1])


def spearman(embed: Embed, name: str) -> float:
    """Rank correlation of cosine similarities with the judgements of pairs of words."""
    words, judged = pairs(name)
    left, right = (embed([pair[side] for pair in words]) for side in (0, 1))
    return float(np.corrcoef(_ranks((left * right).sum(axis=1)), _ranks(judged))[0, 1])


def polarity() -> tuple[list[str], Array]:
    """200 sentences of film reviews, and which are positive (Pang and Lee 2005)."""
    rows = data("pang_lee_polarity.cor").read_text(encoding="cp1252").splitlines()
    labels, texts = zip(*(row.split(" ", 1) for row in rows), strict=True)
    return list(texts), np.array(labels) == "__label__pos"


def nearest_mean(embeddings: Array, positive: Array) -> float:
    """The share of embeddings (N, C) that lie nearer, by cosine, to the mean of the others of their own kind."""
    right = 0
    for index, own in enumerate(positive):
        others = np.arange(len(positive)) != index
        means = [embeddings[others & (positive == kind)].mean(axis=0) for kind in (own, not own)]
        mine, theirs = (float(embeddings[index] @ mean / np.linalg.norm(mean)) for mean in means)
        right += mine > theirs
    return right / len(positive)


def scores(embed: Embed) -> dict[str, float]:
    """Every task's correlation, and of `polarity` the share that is right."""
    reviews, positive = polarity()
    documents, judged = lee()
    return {
        "lee": pearson(embed(documents), judged),
        "simlex": spearman(embed, "simlex999.txt"),
        "wordsim": spearman(embed, "wordsim353.tsv"),
        "polarity": nearest_mean(embed(reviews), positive),
    }


def _ranks(values: Array) -> Array:
    """Places in order, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse]

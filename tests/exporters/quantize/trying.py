"""Writing a small bundle in one kind, and what came of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeattn.exams import Exam
from edgeattn.exporters.quantize import exams
from edgeattn.exporters.quantize.samples import Feeds, is_decoder
from edgeattn.loading import open_session
from edgeattn.runtimes.base import Effective, LoadOptions
from tests.exporters.quantize.small_encoder import all_in, draw, workshop


def windows(count: int, length: int = 48, seed: int = 0) -> list[Feeds]:
    """Random tokens for the small decoder."""
    rng = np.random.default_rng(seed)
    return [{"input_ids": rng.integers(250, size=(1, length))} for _ in range(count)]


def tried(bundle: Path, runtime: str, kind: str, folder: Path) -> tuple[dict[str, float], float, Effective]:
    """Scores of every layer in `kind`, its weights' size over that at full precision, and what its session uses."""
    shop = workshop(bundle, runtime, folder)
    small = is_decoder(shop.bundle)
    shop = workshop(shop.bundle, runtime, folder, windows(8) if small else draw(12))
    kinds = all_in(shop, kind)
    path, _ = shop.make(kinds, folder, "small")
    with open_session(shop.bundle, [shop.flavour], shop.runtime, LoadOptions(threads=1)) as full:
        if small:
            exam: Exam = exams.text_exam(full, windows(8, seed=1))
        else:
            exam = exams.vector_exam(full, draw(12, seed=1), exams.vector_output(shop.bundle.manifest, None))
    with shop.load(path, kinds) as session:
        scores, effective = exam.score(session), session.effective
    before = sum(file.stat().st_size for file in bundle.glob("*.bin"))
    return scores, (folder / "small.bin").stat().st_size / before, effective

"""A small ViT on scikit-learn's digits: trained, exported in smaller numbers under a budget of accuracy, and asked what it sees.

pip install --no-deps scikit-learn
python benchmarks/digits.py --max-drop 0.005
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import ViTConfig, ViTForImageClassification

import edgeattn
from edgeattn.bundle import open_bundle
from edgeattn.errors import GateError
from edgeattn.exams import DROP, Budget
from edgeattn.exporters.export import export
from edgeattn.exporters.quantize.stage import AUTO, Wish

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
TARGETS = ("onnxruntime:cpu", "openvino:cpu")
SIDE, SCALE = 28, 3
"""Pixels of an image: 8 digits' own, enlarged, with a margin."""
_TRAINED, _SEARCHED = 900, 300
"""How many digits train, and how many choose the precision; the rest, 597, have the last word."""


def digits() -> tuple[Array, Array]:
    """Images (1797, 1, 28, 28) between 0 and 1, and what each is. Exits where scikit-learn is missing; it is not imported."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise SystemExit("the digits come with scikit-learn; fix: pip install --no-deps scikit-learn")
    with gzip.open(Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz") as file:
        rows = np.loadtxt(file, delimiter=",")
    images = rows[:, :-1].reshape(-1, 8, 8).repeat(SCALE, axis=1).repeat(SCALE, axis=2) / 16
    margin = (SIDE - 8 * SCALE) // 2
    order = np.random.default_rng(0).permutation(len(rows))
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))
    return padded[order, None].astype(np.float32), rows[order, -1].astype(np.int64)


def trained(images: Array, labels: Array, epochs: int) -> ViTForImageClassification:
    """Six layers of width 192: large enough for smaller numbers to pay."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=SIDE,
        patch_size=4,
        num_channels=1,
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=768,
        num_labels=10,
        hidden_dropout_prob=0.1,
    )
    model = ViTForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-4, total_steps=epochs * -(-len(labels) // 64))
    model.train()
    for epoch in range(epochs):
        print(f"epoch {epoch + 1} of {epochs}", file=sys.stderr)
        for rows in torch.randperm(len(labels)).split(64):
            batch = torch.from_numpy(images)[rows]
            loss = torch.nn.functional.cross_entropy(model(batch).logits, torch.from_numpy(labels)[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(run: Run, images: Array, labels: Array) -> float:
    """The share that is right, each image by itself."""
    found = [run({"pixel_values": image[None]})["logits"].argmax() for image in images]
    return float(np.mean(np.array(found) == labels))


def main() -> None:
    """Train, export, print, and write JSON where asked."""
    arguments = _arguments()
    images, labels = digits()
    model = trained(images[:_TRAINED], labels[:_TRAINED], arguments.epochs)
    chosen = slice(_TRAINED, _TRAINED + _SEARCHED)
    unseen = images[chosen.stop :], labels[chosen.stop :]

    def eager(feeds: Mapping[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            return {"logits": model(torch.from_numpy(feeds["pixel_values"])).logits.numpy()}

    rows = [{"candidate": "PyTorch", "accuracy": accuracy(eager, *unseen)}]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model.save_pretrained(work / "model")
        np.savez(work / "images.npz", pixel_values=images[chosen])
        metric = partial(accuracy, images=images[chosen], labels=labels[chosen])
        wish = Wish(
            (AUTO, "fp32"), Budget(DROP, arguments.max_drop), work / "images.npz", metric, seconds=arguments.search_time
        )
        try:
            export(
                str(work / "model"),
                output=work / "bundle",
                runtimes=TARGETS,
                wish=wish,
                progress=partial(print, file=sys.stderr),
            )
            rows += [_row(work / "bundle", target, precision, unseen) for target, precision in _flavours(work / "bundle")]
        except GateError as error:
            print(error)
    for row in rows:
        print(f"{row['candidate']}: {row['accuracy']:.4f} of {len(unseen[1])} right{row.get('about', '')}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def _flavours(bundle: Path) -> list[tuple[str, str]]:
    manifest = open_bundle(bundle).manifest
    return [(target, precision) for target in TARGETS for precision in manifest.precisions(target)]


def _row(bundle: Path, target: str, precision: str, unseen: tuple[Array, Array]) -> dict[str, Any]:
    runtime, _, device = target.partition(":")
    with edgeattn.load(bundle, runtime, device, precision=precision) as session:
        found = accuracy(session.run, *unseen)
        quantized = next(f for f in open_bundle(bundle).manifest.flavours_for(target, precision)).quantized
        about = f"; {session.effective.precision}"
        if quantized is not None:
            time = quantized.time
            about += f", in {time['ratio']:.2f} [{time['low']:.2f}, {time['high']:.2f}] of fp32's time"
    return {"candidate": f"{target} {precision}", "accuracy": found, "about": about}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-drop", type=float, default=0.005, help="what smaller numbers may lose of accuracy")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--search-time", type=float, default=120.0, help="seconds for each runtime")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()

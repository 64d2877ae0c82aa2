"""`edgeattn run`: one run on arrays, text, images or sounds."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgeattn.bundle import Bundle, open_bundle
from edgeattn.cli import numbers, options
from edgeattn.cli.table import table
from edgeattn.errors import UsageError
from edgeattn.loading import load
from edgeattn.progress import progress
from edgeattn.runtimes import registry

Array = NDArray[Any]

_FILE = click.Path(path_type=Path)


@click.command("run")
@click.argument("bundle")
@click.option("--input", "source", type=_FILE, metavar="FILE.npz", help="Arrays by input name; beside other data, the rest.")
@click.option("--text", "texts", multiple=True, metavar="SENTENCE", help="Text for the bundle's tokenizer; repeatable.")
@click.option("--image", "images", multiple=True, type=_FILE, metavar="FILE", help="An image, PNG or JPEG; repeatable.")
@click.option("--audio", "sounds", multiple=True, type=_FILE, metavar="FILE.wav", help="A sound; repeatable.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.npz", help="Write the outputs there.")
@click.option("-r", "--runtime", default="onnxruntime:cpu", show_default=True, metavar="RUNTIME[:DEVICE]")
@click.option("--flavour", metavar="TARGET", help="Load this flavour instead of the one made for the runtime.")
@options.precision
@options.threads
@options.custom_ops
@options.common
def command(
    bundle: str,
    source: Path | None,
    texts: tuple[str, ...],
    images: tuple[Path, ...],
    sounds: tuple[Path, ...],
    output: Path | None,
    runtime: str,
    flavour: str | None,
    precision: str | None,
    threads: int | None,
    custom_ops: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run BUNDLE once and summarize its outputs.

    \b
    Example:
      edgeattn run out/minilm --text "A cat sits outside" --text "A feline rests outdoors"
      edgeattn run out/minilm --input feeds.npz --output results.npz
      edgeattn run out/clip --image cat.png --text "a photo of a cat" --text "a photo of a dog"
    """
    if source is None and not (texts or images or sounds):
        raise UsageError("give either --input FILE.npz, or the model's data: --text SENTENCE, --image FILE, --audio FILE.wav")
    engine, device = registry.parse_target(runtime)
    opened = open_bundle(bundle)
    feeds = {**_made(opened, texts, images, sounds), **(_read(source) if source else {})}
    with progress() as say:
        say(f"running {opened.path.name} on {engine.name}:{device}")
        with load(opened, engine.name, device, threads, flavour, custom_ops, precision=precision) as session:
            results = session.run(feeds)
            fixed = session.bucket(feeds)
    if output:
        write_arrays(output, results)
    facts = {"effective": session.effective.summary(), "flavour": session.effective.details["flavour"]}
    if as_json:
        options.print_json({**facts, "fixed": fixed, "outputs": {name: _facts(array) for name, array in results.items()}})
        return
    click.echo(_summary(results))
    click.echo(f"\n{facts['effective']}, flavour {facts['flavour']}" + (f", run at {numbers.sizes(fixed)}" if fixed else ""))
    if output:
        click.echo(f"wrote {output}")


def _made(bundle: Bundle, texts: tuple[str, ...], images: tuple[Path, ...], sounds: tuple[Path, ...]) -> dict[str, Array]:
    from edgeattn.preprocess import feeds

    return feeds(bundle, texts, images, sounds)


def _read(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file; nothing in it is executed."""
    if not path.is_file():
        raise UsageError(f"{path} is not there; --input takes an .npz file, as numpy.savez writes it")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not an .npz file of plain arrays: {error}; write it with numpy.savez") from error


def write_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """Write an .npz file under exactly this name; any array name is fine."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


def _summary(results: dict[str, Array]) -> str:
    rows = []
    for name, array in results.items():
        facts = _facts(array)
        numbers = ["-" if facts[key] is None else f"{facts[key]:.4g}" for key in ("min", "mean", "max")]
        first = ", ".join("-" if value is None else f"{value:.4g}" for value in facts["first"])
        rows.append([name, f"{facts['dtype']}{facts['shape']}", *numbers, first])
    return table(["output", "type", "min", "mean", "max", "first values"], rows, right=["min", "mean", "max"])


def _facts(array: Array) -> dict[str, Any]:
    """Numbers for people and JSON; one that is not finite is None."""
    values = array.reshape(-1).astype(np.float64)
    numbers = {"min": values.min(), "mean": values.mean(), "max": values.max()} if values.size else {}
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        **{key: _finite(numbers.get(key)) for key in ("min", "mean", "max")},
        "first": [_finite(value) for value in values[:4]],
    }


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None

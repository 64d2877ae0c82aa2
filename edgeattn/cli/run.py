"""`edgeattn run`: one run on arrays or text."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgeattn.bundle import Bundle, open_bundle
from edgeattn.cli import options
from edgeattn.cli.table import table
from edgeattn.errors import UsageError
from edgeattn.loading import load
from edgeattn.progress import progress
from edgeattn.runtimes import registry

Array = NDArray[Any]


@click.command("run")
@click.argument("bundle")
@click.option("--input", "source", type=click.Path(path_type=Path), metavar="FILE.npz", help="Arrays by input name.")
@click.option("--text", "texts", multiple=True, metavar="SENTENCE", help="Text for the bundle's tokenizer; repeatable.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.npz", help="Write the outputs there.")
@click.option("-r", "--runtime", default="onnxruntime:cpu", show_default=True, metavar="RUNTIME[:DEVICE]")
@click.option("--flavour", metavar="TARGET", help="Load this flavour instead of the one made for the runtime.")
@options.threads
@options.common
def command(
    bundle: str,
    source: Path | None,
    texts: tuple[str, ...],
    output: Path | None,
    runtime: str,
    flavour: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Run BUNDLE once and summarize its outputs.

    \b
    Example:
      edgeattn run out/minilm --text "A cat sits outside" --text "A feline rests outdoors"
      edgeattn run out/minilm --input feeds.npz --output results.npz
    """
    if (source is None) == (not texts):
        raise UsageError("give either --input FILE.npz or --text SENTENCE")
    engine, device = registry.parse_target(runtime)
    opened = open_bundle(bundle)
    feeds = _read(source) if source else _encode(opened, texts)
    with progress() as say:
        say(f"running {opened.path.name} on {engine.name}:{device}")
        with load(opened, engine.name, device, threads, flavour) as session:
            results = session.run(feeds)
    if output:
        write_arrays(output, results)
    facts = {"effective": session.effective.summary(), "flavour": session.effective.details["flavour"]}
    if as_json:
        options.print_json({**facts, "outputs": {name: _facts(array) for name, array in results.items()}})
        return
    click.echo(_summary(results))
    click.echo(f"\n{facts['effective']}, flavour {facts['flavour']}")
    if output:
        click.echo(f"wrote {output}")


def _encode(bundle: Bundle, texts: tuple[str, ...]) -> dict[str, Array]:
    from edgeattn.text import encode

    return encode(bundle, texts)


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

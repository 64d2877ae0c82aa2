"""What values inside an ONNX model are when it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeattn.exporters.quantize.onnx_io import write

Feeds = Mapping[str, NDArray[Any]]


def real_rows(array: NDArray[Any], mask: NDArray[Any] | None) -> NDArray[Any]:
    """(..., I) -> (N, I), without padding where the leading axes are those of its mask."""
    if mask is not None and array.shape[:-1] == mask.shape:
        return np.asarray(array[np.asarray(mask) != 0])
    return array.reshape(-1, array.shape[-1])


def read_by(
    model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], samples: Sequence[Feeds], padding: str
) -> Iterator[dict[str, NDArray[Any]]]:
    """For each of `samples` the first input of each of `nodes`, by its name: (N, I), the positions that are not `padding`."""
    asked = sorted({node.input[0] for node in nodes})
    for feeds, arrays in zip(samples, observed(model, asked, samples), strict=True):
        yield {name: real_rows(array, feeds.get(padding)) for name, array in arrays.items()}


def observed(model: onnx.ModelProto, names: Sequence[str], samples: Iterable[Feeds]) -> Iterator[dict[str, NDArray[Any]]]:
    """The values `names`, of real numbers, for each of `samples`."""
    import onnxruntime as ort

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    with TemporaryDirectory() as folder:  # a model of 2 GB and more cannot be handed over in memory
        path = Path(folder) / "watched.onnx"
        write(watched, path, "watched.bin")
        session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        takes = [info.name for info in session.get_inputs()]
        for feeds in samples:
            arrays = session.run(names, {name: feeds[name] for name in takes})
            yield dict(zip(names, arrays, strict=True))

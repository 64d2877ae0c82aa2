"""Products in int8 by ONNX Runtime's own quantizers, which read and write files: inputs rounded as they come, or with scales
found beforehand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from numpy.typing import NDArray

from edgeattn.exporters.quantize import ranges
from edgeattn.exporters.quantize.observing import Feeds
from edgeattn.exporters.quantize.onnx_io import write
from edgeattn.exporters.quantize.quiet import quiet

_MATMUL = ["MatMul"]
_EXTRA = {"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT}


def dynamic(model: onnx.ModelProto, nodes: Collection[str]) -> onnx.ModelProto:
    """`MatMulInteger`: a scale per column, one for the inputs of each run."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def quantize(before: Path, after: Path) -> None:
        quantize_dynamic(
            before,
            after,
            op_types_to_quantize=_MATMUL,
            nodes_to_quantize=sorted(nodes),
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            extra_options=_EXTRA,
        )

    return _through_files(model, quantize)


def static(
    model: onnx.ModelProto, nodes: Collection[str], samples: Sequence[Feeds], method: ranges.Method | None
) -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear at each input and weight: a scale per column, one for inputs, found from `samples`."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    found = ranges.onnxruntime_options(method)

    def quantize(before: Path, after: Path) -> None:
        quantize_static(
            before,
            after,
            _reader(model, samples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_MATMUL,
            nodes_to_quantize=sorted(nodes),
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            use_external_data_format=True,
            calibrate_method=found["calibrate_method"],
            extra_options={
                **_EXTRA,
                **found["extra_options"],
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": _MATMUL,
            },
        )

    return _through_files(model, quantize)


def _through_files(model: onnx.ModelProto, quantize: Callable[[Path, Path], None]) -> onnx.ModelProto:
    with TemporaryDirectory() as folder, quiet():
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        write(model, before, "before.bin")
        quantize(before, after)
        return onnx.load(after)


def _reader(model: onnx.ModelProto, samples: Sequence[Feeds]) -> Any:
    """`samples` one after the other, as the quantizer asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    names = [value.name for value in model.graph.input]

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # its package has no types
        def __init__(self) -> None:
            self.left: Iterator[Feeds] = iter(samples)

        def __len__(self) -> int:
            return len(samples)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.left = iter(samples[start_index:end_index])

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            feeds = next(self.left, None)
            return None if feeds is None else {name: feeds[name] for name in names}

    return Reader()

"""OpenVINO IR files: their layers and our own note in them, read without OpenVINO and before OpenVINO sees the file.

A flavour of a decoder that keeps its cache itself is such a file (`Flavour.cache`): XML, and numbers in the weight file that
all flavours share. The note says what the XML cannot: names of dimensions, and the cache as inputs and outputs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers import expat

from edgeattn.errors import BundleError
from edgeattn.manifest import TensorInfo

SUFFIX = ".xml"
NOTE = ("edgeattn", "note")
"""Where the note is in the model's own `rt_info`."""
MAX_BYTES = 64 << 20
"""Largest XML that is read; a decoder of 30 layers has 2 MB."""
_MAX_DEPTH = 64
_NEWEST = 16

OPSETS = frozenset(f"opset{number}" for number in range(1, _NEWEST + 1))
"""Sets of layers that OpenVINO brings itself; a layer of any other one would need a library."""
LAYERS = frozenset({
    "Abs", "Acos", "Acosh", "Add", "Asin", "Asinh", "Assign", "Atan", "Atanh", "AvgPool", "BatchNormInference",
    "Broadcast", "Ceiling", "Clamp", "Concat", "Const", "Convert", "ConvertLike", "Convolution", "Cos", "Cosh",
    "CumSum", "DepthToSpace", "Divide", "Einsum", "Elu", "Equal", "Erf", "Exp", "Eye", "FakeConvert", "FakeQuantize",
    "Floor", "FloorMod", "GRN", "GroupConvolution", "GRUCell", "GRUSequence", "Gather", "GatherElements", "GatherND",
    "Gelu", "Greater", "GreaterEqual", "HardSigmoid", "HSigmoid", "HSwish", "IsFinite", "IsInf", "IsNaN", "LSTMCell",
    "LSTMSequence", "Less", "LessEqual", "Log", "LogSoftmax", "LogicalAnd", "LogicalNot", "LogicalOr", "LogicalXor",
    "MVN", "MatMul", "MaxPool", "Maximum", "Minimum", "Mish", "Mod", "Multiply", "Negative", "NonZero", "NormalizeL2",
    "NotEqual", "OneHot", "PRelu", "Pad", "Parameter", "Power", "RMS", "RNNCell", "RNNSequence", "Range", "ReLU",
    "ReadValue", "ReduceL1", "ReduceL2", "ReduceLogicalAnd", "ReduceLogicalOr", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "Reshape", "Result", "ReverseSequence", "Roll", "Round", "ScaledDotProductAttention",
    "ScatterElementsUpdate", "ScatterNDUpdate", "ScatterUpdate", "Select", "Selu", "ShapeOf", "Sigmoid", "Sign", "Sin",
    "Sinh", "Slice", "SliceScatter", "SoftMax", "SoftPlus", "SoftSign", "Softmax", "SpaceToDepth", "Split", "Sqrt",
    "SquaredDifference", "Squeeze", "StridedSlice", "Subtract", "Swish", "Tan", "Tanh", "Tile", "TopK", "Transpose",
    "Unsqueeze", "VariadicSplit",
})  # fmt: skip
"""Layers that compute tensors from tensors; none that runs a body, reads a file or calls out."""


class Layer(NamedTuple):
    """A layer by the set and the type; prints as `opset13::ScaledDotProductAttention`."""

    opset: str
    type: str

    def __str__(self) -> str:
        return f"{self.opset}::{self.type}"


@dataclass(frozen=True, slots=True)
class Note:
    """What a session needs besides the layers. `weights`: file beside the XML that holds the numbers; `inputs` and `outputs`
    those of the model, the cache's pasts and presents among them; `variables` past -> (present, the name of its state); `token`: whether
    it is to be compiled again for a single token of one row."""

    weights: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    variables: dict[str, tuple[str, str]]
    token: bool = False

    def dumps(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class IrFile:
    """What a file says. `layers`: those in bodies too; `noted`: our note as it stands there, empty where there is none."""

    name: str
    layers: frozenset[Layer]
    noted: str

    @property
    def foreign(self) -> list[Layer]:
        """Layers that a bundle may not use, sorted."""
        return sorted(layer for layer in self.layers if layer.opset not in OPSETS or layer.type not in LAYERS)

    def note(self) -> Note | None:
        """Our note; None where the file was written by somebody else. Raises BundleError where it is damaged."""
        if not self.noted:
            return None
        try:
            data = json.loads(self.noted)
            variables = {str(past): (str(present), str(name)) for past, (present, name) in data["variables"].items()}
            inputs, outputs = _infos(data["inputs"]), _infos(data["outputs"])
            note = Note(str(data["weights"]), inputs, outputs, variables, data.get("token", False) is True)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BundleError(
                f"{self.name}: its note on inputs and outputs is damaged ({error}); export the model again"
            ) from error
        if Path(note.weights).name != note.weights or not note.weights.endswith(".bin"):
            raise BundleError(f"{self.name}: its weights {note.weights!r} are no .bin file beside it; export the model again")
        return note


def read_ir(path: Path) -> IrFile:
    """Read a file.

    Raises:
        BundleError: it is too large, no plain XML, or has a document type.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise BundleError(f"{path.name} has {size} bytes, at most {MAX_BYTES} of XML are read; export the model again")
    reader, parser = _Reader(), expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.StartDoctypeDeclHandler, parser.XmlDeclHandler = reader.document_type, reader.declaration
    try:
        text = path.read_bytes()
        if not text.startswith(b"<"):  # a byte order mark would have OpenVINO guess the encoding
            raise ValueError("it does not begin with '<'")
        parser.Parse(text, True)
    except (ValueError, expat.ExpatError) as error:
        raise BundleError(f"{path.name} is no plain XML of OpenVINO ({error}); export the model again") from error
    return IrFile(path.name, frozenset(reader.layers), reader.noted)


def _infos(data: Any) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(str(d["name"]), str(d["dtype"]), tuple(_dim(dim) for dim in d["dims"])) for d in data)


def _dim(dim: Any) -> int | str:
    if isinstance(dim, bool) or not isinstance(dim, int | str):
        raise TypeError(f"a dimension is {dim!r}")
    return dim


class _Reader:
    """Collects layers and the note; refuses what could make a second reader see another document."""

    def __init__(self) -> None:
        self.layers: set[Layer] = set()
        self.noted = ""
        self._path: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        if len(self._path) > _MAX_DEPTH:
            raise ValueError(f"elements nested deeper than {_MAX_DEPTH}")
        if tag == "layer":
            self.layers.add(Layer(attributes.get("version", "no opset"), attributes.get("type", "no type")))
        if self._path == ["net", "rt_info", *NOTE]:
            self.noted = attributes.get("value", "")

    def end(self, _tag: str) -> None:
        self._path.pop()

    def document_type(self, *_: object) -> None:
        raise ValueError("a document type, which may define entities")

    def declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if (encoding or "utf-8").lower() != "utf-8":
            raise ValueError(f"encoding {encoding!r}, expected utf-8")

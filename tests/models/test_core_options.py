"""Options that variants share: they reach the spec and the parameters; dropout; layouts; inputs that do not fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses

from edgeattn.errors import SpecError, UsageError
from edgeattn.models import create
from edgeattn.models.attention.additive import AdditiveAttention
from edgeattn.models.attention.block_sparse import BlockSparseAttention, bigbird_layout
from edgeattn.models.attention.scaled_dot_product import ScaledDotProductAttention
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.models.functional import attention
from edgeattn.spec import Causal, Entmax15, SoftmaxAttention


def test_defining_options_reach_the_spec() -> None:
    module = SelfAttention(12, 4, num_kv_heads=2, score="additive", normalizer=Entmax15(), pattern=Causal())
    assert module.spec == SoftmaxAttention(4, 2, 3, score="additive", normalizer=Entmax15(), pattern=Causal())
    assert module.score_weight is not None
    assert module.score_weight.shape == (4, 3)
    bare = ScaledDotProductAttention(4, 3, sink=True, score_bias=True, dropout=0.25)
    assert bare.spec == SoftmaxAttention(4, 4, 3, sink=True, bias=True)
    assert [tuple(p.shape) for p in bare.parameters()] == [(4,)]
    assert repr(bare).endswith("(4 heads x 3, bias, sink, dropout 0.25)")


@pytest.mark.parametrize("dropout", [1.0, -0.1, float("nan"), True, "half"])
def test_dropout_that_cannot_be(dropout: float) -> None:
    with pytest.raises(UsageError, match="dropout must be a number with 0 <= dropout < 1, got "):
        SelfAttention(12, dropout=dropout)


@pytest.mark.parametrize("softcap", [None, 5.0], ids=["fused", "by its formula"])
def test_dropout_drops_whole_weights_and_keeps_the_mean(softcap: float | None) -> None:
    """With one-hot values the output is the weights themselves: each is either 0 or scaled up."""
    torch.manual_seed(0)
    spec = SoftmaxAttention(4, 2, 3, 6, softcap=softcap)
    q, k, v = torch.randn(500, 4, 5, 3), torch.randn(500, 2, 6, 3), torch.eye(6).expand(500, 2, 6, 6)
    whole, got = attention(q, k, v, spec), attention(q, k, v, spec, dropout=0.25)
    kept = got != 0
    torch.testing.assert_close(got[kept], whole[kept] / 0.75)
    assert abs(float(kept.float().mean()) - 0.75) < 0.02


def test_dropout_is_not_exported() -> None:
    module, x = SelfAttention(12, 3, dropout=0.1), torch.randn(2, 5, 12)
    with pytest.raises(UsageError, match=r"attention with dropout 0\.1 while being exported; call \.eval\(\)"):
        torch.export.export(module, (x,))
    program = torch.export.export(module.eval(), (x,))
    assert not [node for node in program.graph.nodes if "dropout" in str(node.target)]


def test_block_layouts_per_head() -> None:
    torch.manual_seed(0)
    module, x = BlockSparseAttention(12, 2, block=2, layout=[["10", "11"], ["11", "01"]]), torch.randn(2, 4, 12)
    q, k, v = module.project(x, x, x)
    tables = torch.tensor([[[1, 0], [1, 1]], [[1, 1], [0, 1]]], dtype=torch.bool)
    seen = tables.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    torch.testing.assert_close(module(x), module.join(F.scaled_dot_product_attention(q, k, v, attn_mask=seen)))


def test_bigbird_layout_has_window_global_and_random_blocks() -> None:
    (table,) = bigbird_layout(20, window=5, global_=2, random=3, seed=4)
    drawn = []
    for r, row in enumerate(table):
        must = {c for c in range(20) if abs(c - r) <= 2 or c < 2 or r < 2}
        seen = {c for c in range(20) if row[c] == "1"}
        assert must <= seen
        assert len(seen - must) == (0 if r < 2 else 3)
        drawn.append(frozenset(seen - must))
    assert len(set(drawn)) > 10
    assert bigbird_layout(20, 5, 2, 3, seed=4) == (table,) != bigbird_layout(20, 5, 2, 3, seed=5)
    assert bigbird_layout(3) == (("111", "111", "111"),)
    create("block_sparse", embed_dim=4, block=2, layout=bigbird_layout(6))(torch.randn(1, 11, 4))


def test_layouts_that_cannot_be() -> None:
    with pytest.raises(UsageError, match=r"window must be odd, .*, got 4"):
        bigbird_layout(8, window=4)
    with pytest.raises(UsageError, match="blocks must be at least 1, got 0"):
        bigbird_layout(0)
    with pytest.raises(SpecError, match=r"BlockSparse\.layout\[0\] must be 2 rows of 0 and 1"):
        BlockSparseAttention(4, block=2, layout=[["12", "11"]])
    with pytest.raises(SpecError, match=r"BlockSparse\.layout has 2 tables; expected 1 for all heads, or q_heads"):
        BlockSparseAttention(4, 4, block=2, layout=[["1"], ["1"]])
    with pytest.raises(UsageError, match="5 queries, but the layout describes 4 positions"):
        BlockSparseAttention(4, block=2, layout=[["11", "11"]])(torch.randn(1, 5, 4))


def test_context_that_does_not_fit() -> None:
    module = AdditiveAttention(12, 7, 5)
    with pytest.raises(UsageError, match=r"context must be \(batch, length, 7\), got sizes \(2, 5, 12\)"):
        module(torch.randn(2, 5, 12), torch.randn(2, 5, 12))
    with pytest.raises(UsageError, match=r"x must be \(batch, length, 12\), got sizes \(5, 12\)"):
        module(torch.randn(5, 12), torch.randn(2, 5, 7))


def test_a_sink_needs_a_softmax() -> None:
    with pytest.raises(SpecError, match="a sink takes its share of a softmax's sum; sigmoid has no such sum"):
        create("sigmoid", embed_dim=4, sink=True)

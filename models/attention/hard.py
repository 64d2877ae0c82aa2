"""Hard attention: each query takes the value of one key alone, the one with the highest score.

Xu et al., "Show, Attend and Tell", 2015 (https://arxiv.org/abs/1502.03044), section 4.1, where training samples the
position (REINFORCE: Williams, 1992, https://doi.org/10.1007/BF00992696); Bengio et al., "Estimating or Propagating
Gradients Through Stochastic Neurons", 2013 (https://arxiv.org/abs/1308.3432), for the straight-through estimator.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Unpack, get_args

import torch
from torch import Tensor

from edgeattn.errors import UsageError
from edgeattn.models.attention.naive import weights
from edgeattn.models.attention.options import KeyValueOption, MaskOption, ProjectionOptions, SoftcapOption
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.models.functional import prepared
from edgeattn.models.variant import variant
from edgeattn.spec import Full, Pattern, Softmax, TopK

Estimator = Literal["straight_through", "reinforce"]


class HardOptions(ProjectionOptions, KeyValueOption, MaskOption, SoftcapOption):
    """All but the sink, of which an argmax knows nothing."""


@variant("hard", embed_dim=12, num_heads=3)
class HardAttention(SelfAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim). Evaluation, and what is exported, is the argmax; training goes by `estimator`:

    - "straight_through": the same argmax, with the gradient that softmax attention would have.
    - "reinforce": a position sampled from the softmax. `log_prob` (B, H, S) then holds the log-probability of what the last
      forward sampled. Add `-(reward - baseline) * log_prob` to the loss: the scores get no other gradient.

    Raises:
        UsageError: an unknown estimator; exporting while sampling; dropout, which would leave nothing of a single key.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        estimator: Estimator = "straight_through",
        pattern: Pattern = Full(),  # noqa: B008 - frozen and without fields
        **options: Unpack[HardOptions],
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern=pattern, normalizer=TopK(1), **options)
        if estimator not in get_args(Estimator):
            raise UsageError(f"estimator must be one of {', '.join(get_args(Estimator))}, got {estimator!r}")
        if self.dropout:
            raise UsageError(f"hard attention weighs a single key, which dropout {self.dropout:g} would take away; leave it 0")
        self.estimator = estimator
        self.log_prob: Tensor | None = None

    def core(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        score_bias: Tensor | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        if not self.training:
            return super().core(q, k, v, mask, score_bias, prefix)
        if torch.compiler.is_exporting():
            if self.estimator == "reinforce":
                raise UsageError("hard attention that samples cannot be exported; call .eval() on the model first")
            return super().core(q, k, v, mask, score_bias, prefix)
        mask, score_bias = prepared(q, k, v, self.spec, {"mask": mask, "bias": score_bias, "prefix": prefix})
        soft = weights(q, k, dataclasses.replace(self.spec, normalizer=Softmax()), mask, score_bias, prefix=prefix)
        if self.estimator == "reinforce":
            hard, self.log_prob = _sampled(soft)
        else:
            hard = weights(q, k, self.spec, mask, score_bias, prefix=prefix).detach() + (soft - soft.detach())
        return hard @ v.repeat_interleave(self.spec.group, dim=1)

    def __getstate__(self) -> dict[str, Any]:
        """A copy starts without `log_prob`, which belongs to a graph of this module."""
        return {**self.__dict__, "log_prob": None}


def _sampled(soft: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (B, H, S, T) -> one of them drawn by its probability as 1, the others 0; and its log-probability (B, H, S).

    A query that sees no key draws none, with log-probability 0.
    """
    blind = (soft == 0).all(dim=-1, keepdim=True)
    odds = soft.masked_fill(blind, 1.0)
    chosen = torch.multinomial(odds.detach().flatten(0, 2), 1).reshape(*soft.shape[:3], 1)
    drawn = torch.zeros_like(soft).scatter(-1, chosen, 1.0).masked_fill(blind, 0.0)
    return drawn, odds.gather(-1, chosen).log().masked_fill(blind, 0.0).squeeze(-1)

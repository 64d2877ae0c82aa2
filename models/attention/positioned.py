"""Self-attention that knows positions: the scheme changes x, q and k, or the scores, whichever place it has."""

from __future__ import annotations

import dataclasses
from typing import Unpack

from torch import Tensor

from edgeattn.errors import UsageError
from edgeattn.models.attention.options import GeneralOptions
from edgeattn.models.attention.projected import ProjectedAttention
from edgeattn.models.positions.base import Positions
from edgeattn.spec import Causal


class PositionedAttention(ProjectedAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim). `causal=True` is short for `pattern=Causal()`.

    Without `positions` the order of the sequence does not count, as far as the pattern allows.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        positions: Positions | None = None,
        causal: bool = False,
        **options: Unpack[GeneralOptions],
    ) -> None:
        if causal:
            if "pattern" in options:
                raise UsageError("causal=True is a pattern by itself; leave out one of causal and pattern")
            options["pattern"] = Causal()
        super().__init__(embed_dim, num_heads, **options)
        self.place(Positions() if positions is None else positions)

    def place(self, positions: Positions) -> None:
        """Take `positions`, and a bias into the spec where they need one."""
        self.positions = positions
        self.spec = dataclasses.replace(self.spec, bias=self.takes_bias or positions.biased)

    def forward(self, x: Tensor, mask: Tensor | None = None, score_bias: Tensor | None = None) -> Tensor:
        x = self.positions.embed(x)
        return self.attend(x, x, x, mask, score_bias)

    def core(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        score_bias: Tensor | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """q (B, H, S, D), k (B, K, S, D), v (B, K, S, E) without positions -> (B, H, S, E)."""
        q, k = self.positions.rotate(q, k)
        if self.positions.biased:
            score_bias = self._joint_bias(self.positions.bias(q, k, self.spec.scale), score_bias)
        return super().core(q, k, v, mask, score_bias, prefix)

    def _joint_bias(self, bias: Tensor, given: Tensor | None) -> Tensor:
        if (given is not None) != self.takes_bias:
            raise UsageError(
                f"score_bias was {'given' if given is not None else 'left out'}, but the module was made with "
                f"score_bias={self.takes_bias}"
            )
        return bias if given is None else bias + given

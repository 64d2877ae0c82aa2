"""Learned positions: one learned vector for each position is added to x, up to a largest length.

Gehring et al., "Convolutional Sequence to Sequence Learning", 2017 (https://arxiv.org/abs/1705.03122), section 3.1;
Devlin et al., "BERT", 2018 (https://arxiv.org/abs/1810.04805), section 3.
"""

from __future__ import annotations

from torch import Tensor, arange, nn

from edgeattn.errors import UsageError
from edgeattn.fields import check_int
from edgeattn.models.positions.base import Positions


class LearnedPositions(Positions):
    """x (B, S, embed_dim) -> x + a learned (S, embed_dim), S <= max_length."""

    def __init__(self, embed_dim: int, max_length: int) -> None:
        super().__init__()
        check_int("max_length", max_length)
        self.table = nn.Embedding(max_length, embed_dim)

    def embed(self, x: Tensor) -> Tensor:
        """x (B, S, embed_dim) -> (B, S, embed_dim).

        Raises:
            UsageError: x is longer than max_length. An exported model leaves that to its runtime, which refuses to add a
                row that the table does not have; export with `torch.export.Dim(name, max=max_length)`.
        """
        length, limit = x.shape[1], self.table.num_embeddings
        if isinstance(length, int) and length > limit:
            raise UsageError(f"{length} positions, but max_length is {limit}; make it larger, or cut the input")
        added: Tensor = self.table(arange(length, device=x.device))
        return x + added

"""What torch.export needs to trace torch's own attention modules at every length."""

from __future__ import annotations

import contextlib
import functools
import operator
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import sympy
import torch
from torch.fx.experimental import proxy_tensor
from torch.nn.attention import flex_attention as torchs
from torch.nn.modules import transformer


@contextlib.contextmanager
def traceable() -> Iterator[None]:
    """While open, torch leaves out what only its own kernels use, and a slip of torch 2.13 is mended.

    A block mask keeps its mask_mod and has no blocks: computing them fixes lengths to a multiple of the block size.
    nn.TransformerEncoder takes a mask as it is: whether it is causal would be asked of its values, and so of the inputs.
    Sizes such as s0 * s1 * 8 are multiplied by a function of any number of arguments, where torch has one of two.
    """
    replaced = [
        (torchs, "create_mask", _no_mask),
        (torchs, "_convert_mask_to_block_mask", _no_blocks),
        (torchs, "_transpose_ordered", lambda count, indices: (count, indices)),
        (transformer, "_detect_is_causal_mask", lambda mask, is_causal=None, size=None: is_causal is True),
    ]
    product = {sympy.Mul: lambda *sizes: functools.reduce(operator.mul, sizes)}
    with contextlib.ExitStack() as stack:
        for module, name, replacement in replaced:
            stack.enter_context(mock.patch.object(module, name, replacement))
        stack.enter_context(mock.patch.dict(proxy_tensor._sympy_handlers(), product))
        yield


_create_mask = torchs.create_mask


def _no_mask(*args: Any, **options: Any) -> torch.Tensor:
    """For create_block_mask, of which only the mask_mod is used; others who ask for a mask get it."""
    if sys._getframe(1).f_code is not torchs.create_block_mask.__code__:
        return _create_mask(*args, **options)
    return torch.ones(1, 1, 1, 1, dtype=torch.bool)


def _no_blocks(_: torch.Tensor, separate_full_blocks: bool = False, **__: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    one = torch.ones(1, 1, 1, 1, dtype=torch.int8)
    return one, one if separate_full_blocks else None

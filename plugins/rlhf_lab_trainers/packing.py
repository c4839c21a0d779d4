"""Integers in as few bytes as hold them: rows are picked at random, and few bytes come faster from memory."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

__all__ = ["pack", "unpack"]

_SMALL: Final = (torch.uint8, torch.int16, torch.int32)


def pack(x: Tensor) -> Tensor:
    """Return an int64 tensor in the smallest type that holds its numbers, any other as it is.

    Runs that share their memory go on sharing it.
    """
    if x.dtype is not torch.int64 or not x.numel():
        return x
    if len(x) > 1 and x.stride(0) == 0:
        return pack(x[:1]).expand(x.shape)
    low, high = x.aminmax()
    for dtype in _SMALL:
        if torch.iinfo(dtype).min <= int(low) and int(high) <= torch.iinfo(dtype).max:
            return x.to(dtype)
    return x


def unpack(x: Tensor) -> Tensor:
    """Return what was packed as int64 again."""
    return x.long() if x.dtype in _SMALL else x

"""Counter-based random numbers, keyed by (seed, stream) and counted by (step, element).

A number depends on its key and counter alone, never on what was drawn before or beside it. Hence a seed's run is the
same whatever runs beside it, a resumed run draws what the uninterrupted one would have drawn, and arms share noise.

Generator: Philox4x32-10, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, Final

import numba
import numpy as np
import torch
from torch import Tensor

__all__ = ["Streams", "philox", "uniform"]

_M0: Final = np.uint64(0xD2511F53)
_M1: Final = np.uint64(0xCD9E8D57)
_W0: Final = np.uint64(0x9E3779B9)
_W1: Final = np.uint64(0xBB67AE85)
_LOW: Final = np.uint64(0xFFFFFFFF)
_SHIFT: Final = np.uint64(32)
_ZERO: Final = np.uint64(0)


@numba.njit(inline="always", cache=True)
def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> tuple[Any, Any, Any, Any]:
    """Return four 32-bit words for counter ``c0..c3`` and key ``k0, k1``, all 32-bit numbers held in uint64."""
    for _ in range(10):
        p0 = _M0 * c0
        p1 = _M1 * c2
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _LOW, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _LOW
        k0 = (k0 + _W0) & _LOW
        k1 = (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@numba.njit(inline="always", cache=True)
def uniform(word: Any) -> float:
    """Return the midpoint of a 32-bit word's cell of (0, 1): never 0, never 1."""
    return (np.float64(word) + 0.5) * 2.0**-32


@numba.njit(cache=True)
def _fill(out: Any, keys: Any, step: int) -> None:
    low, high = np.uint64(step) & _LOW, np.uint64(step) >> _SHIFT
    for run in range(out.shape[0]):
        for block in range((out.shape[1] + 3) // 4):
            words = philox(np.uint64(block), low, high, _ZERO, keys[run, 0], keys[run, 1])
            for i in range(min(4, out.shape[1] - 4 * block)):
                out[run, 4 * block + i] = uniform(words[i])


class Streams:
    """One independent stream of random numbers per run; ``streams["actions"]`` names a child stream.

    Raises ``ValueError`` for a seed outside ``[0, 2**32)``.
    """

    def __init__(self, seeds: Sequence[int], path: str = "") -> None:
        outside = [seed for seed in seeds if not 0 <= seed < 2**32]
        if outside:
            raise ValueError(f"seed {outside[0]} is outside [0, 2**32)")
        self.seeds = tuple(seeds)
        self.path = path
        self.keys = np.empty((len(self.seeds), 2), dtype=np.uint64)  # one Philox key per run, for compiled kernels
        self.keys[:, 0] = self.seeds
        self.keys[:, 1] = zlib.crc32(path.encode())

    @property
    def runs(self) -> int:
        return len(self.seeds)

    def __getitem__(self, name: str) -> Streams:
        return Streams(self.seeds, f"{self.path}/{name}")

    def uniforms(self, step: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return ``[runs, *shape]`` numbers in (0, 1) that belong to ``step``, a counter of the caller's."""
        out = np.empty((self.runs, math.prod(shape)), dtype=np.float64)
        _fill(out, self.keys, step)
        numbers = torch.from_numpy(out).view(self.runs, *shape)
        if dtype is torch.float64:
            return numbers
        return numbers.to(dtype).clamp_(torch.finfo(dtype).tiny, 1 - torch.finfo(dtype).eps)

    def normals(self, step: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return ``[runs, *shape]`` standard normal numbers, by inversion of ``uniforms``."""
        numbers: Tensor = torch.special.ndtri(self.uniforms(step, *shape))
        return numbers.to(dtype)

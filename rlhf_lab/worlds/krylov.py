"""Linear systems of a game of turns, (I - γ P) x = b or its transpose, solved until the residual itself is small."""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np

from rlhf_lab.worlds.sweeps import step

__all__ = ["solve"]

_DIMENSIONS: Final = 4  # s of IDR(s); more save few products
_KEPT: Final = 0.7  # the least cosine with which a residual is minimised, as the source advises
_MARGIN: Final = 0.3  # of the goal, as the residual that is carried along is not quite the true one
_SWEEPS: Final = 100


@numba.njit(cache=True)
def solve(
    moves: Any, replies: Any, gamma: float, live: Any, transposed: bool, b: Any, x: Any, absolute: float,
    relative: float, limit: int,
) -> bool:  # fmt: skip
    """Solve (I - γ P) x = b for ``x [s]`` in place, beginning there; with Pᵀ where ``transposed``.

    Only among ``live [s]`` states; ``b`` and ``x`` must be 0 elsewhere. Stops when the norm of the residual, computed
    from x, is at most ``absolute + relative * |x|`` (largest element; the sum where ``transposed``), or after ``limit``
    products; returns whether it is. IDR(s), and plain sweeps x = b + γ P x where that does not help.
    """
    residual, buffer, kept = np.empty_like(x), np.empty(len(replies.offsets) - 1), x.copy()
    before, spent = np.inf, 0
    while True:
        step(moves, replies, gamma, live, transposed, x, buffer, residual)
        for i in range(len(x)):
            residual[i] += b[i] - x[i]
        found = _norm(residual, transposed)
        goal = absolute + relative * _norm(x, transposed)
        if found <= goal:
            return True
        if spent >= limit:
            return False
        if found < before / 2:
            kept[:] = x
            before = found
            spent += _idr(moves, replies, gamma, live, transposed, x, residual, _MARGIN * goal, limit - spent)
        else:
            if not found < before:  # nor where it is NaN
                x[:] = kept
            for _ in range(_SWEEPS):
                step(moves, replies, gamma, live, transposed, x, buffer, residual)
                for i in range(len(x)):
                    x[i] = b[i] + residual[i]
            spent += _SWEEPS
            before = np.inf


@numba.njit(cache=True)
def _norm(x: Any, total: bool) -> float:
    norm = 0.0
    for i in range(len(x)):
        norm = norm + abs(x[i]) if total else max(norm, abs(x[i]))
    return norm if np.isfinite(x).all() else np.nan


@numba.njit(cache=True)
def _dot(x: Any, y: Any) -> float:
    total = 0.0
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@numba.njit(cache=True)
def _add(x: Any, scale: float, y: Any) -> None:
    for i in range(len(x)):
        x[i] += scale * y[i]


@numba.njit(cache=True)
def _shadows(size: int) -> Any:
    """Return vectors ``[s,size]`` that no structure of a world is likely to be orthogonal to: frac(i √prime) - 1/2."""
    shadows = np.empty((_DIMENSIONS, size))
    for k, prime in enumerate((2, 3, 5, 7)):
        for i in range(size):
            shadows[k, i] = (i + 1) * np.sqrt(prime) % 1.0 - 0.5
    return shadows


@numba.njit(cache=True, error_model="numpy")
def _idr(
    moves: Any, replies: Any, gamma: float, live: Any, transposed: bool, x: Any, r: Any, goal: float, limit: int
) -> int:
    """Improve ``x`` by IDR(s), whose residual is ``r``, both in place; return the number of products with P.

    Stops at ``goal``, after ``limit`` products or so, or where the method breaks down.

    Source: van Gijzen and Sonneveld 2011, "Algorithm 913: an elegant IDR(s) variant that efficiently exploits
    biorthogonality properties", figure 2.
    """
    size, count = len(x), _DIMENSIONS
    shadows, buffer = _shadows(size), np.empty(len(replies.offsets) - 1)
    directions, images = np.zeros((count, size)), np.zeros((count, size))  # images = (I - γ P) directions
    mixed, image = np.empty(size), np.empty(size)
    overlap = np.eye(count)  # shadows · images, lower triangular
    omega, spent = 1.0, 0
    while spent < limit:
        f = np.array([_dot(shadows[k], r) for k in range(count)])
        for k in range(count):
            mixed[:] = r
            direction = np.zeros(size)
            c = np.zeros(count)
            for i in range(k, count):
                c[i] = f[i]
                for j in range(k, i):
                    c[i] -= overlap[i, j] * c[j]
                c[i] /= overlap[i, i]
                _add(mixed, -c[i], images[i])
                _add(direction, c[i], directions[i])
            _add(direction, omega, mixed)
            step(moves, replies, gamma, live, transposed, direction, buffer, image)
            spent += 1
            for i in range(size):
                image[i] = direction[i] - image[i]
            for i in range(k):
                alpha = _dot(shadows[i], image) / overlap[i, i]
                _add(image, -alpha, images[i])
                _add(direction, -alpha, directions[i])
            directions[k], images[k] = direction, image
            for i in range(k, count):
                overlap[i, k] = _dot(shadows[i], image)
            if overlap[k, k] == 0:
                return spent
            beta = f[k] / overlap[k, k]
            _add(r, -beta, image)
            _add(x, beta, direction)
            for i in range(k + 1, count):
                f[i] -= beta * overlap[i, k]
            if not _norm(r, transposed) > goal:  # nor where it is NaN
                return spent
        step(moves, replies, gamma, live, transposed, r, buffer, image)
        spent += 1
        for i in range(size):
            image[i] = r[i] - image[i]
        length, along = _dot(image, image), _dot(image, r)
        if along == 0:
            return spent
        omega = along / length
        cosine = abs(along) / np.sqrt(length * _dot(r, r))
        if cosine < _KEPT:
            omega *= _KEPT / cosine
        _add(x, omega, r)
        _add(r, -omega, image)
        if not _norm(r, transposed) > goal:
            return spent
    return spent

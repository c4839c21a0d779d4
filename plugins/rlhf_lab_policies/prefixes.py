"""Which tokens a causal network computes for the states of a world of token sequences, and what each one sees.

All states at once are the nodes of a tree, whose paths from the prompt are the strings: each node is computed once,
although many strings begin with it. A few states out of many are strings of their own.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Nodes", "chains", "tree"]

_LANES: Final = 32  # numbers that a processor may compute at once


class Nodes(NamedTuple):
    """``n`` tokens at their positions, of which each sees up to t: where ``seen[u, i]``, node i sees ``before[u, i]``.

    Without ``before`` every t nodes in a row are a string, and each of them sees those of its own string.
    """

    tokens: Tensor  # [n], or [runs, n]
    positions: Tensor  # [n]
    seen: Tensor  # [t, n]
    before: Tensor | None  # [t, n]

    def seen_by_each(self, x: Tensor) -> Tensor:
        """Return ``x [runs, n, k]`` of the nodes that each one sees, ``[runs, t, n, k]``; any where not ``seen``."""
        runs, n, size = x.shape
        steps = self.seen.shape[0]
        if self.before is None:
            strings = x.view(runs, -1, steps, 1, size).expand(-1, -1, -1, steps, -1)
            return strings.transpose(1, 2).reshape(runs, steps, n, size)
        return x.index_select(1, self.before.flatten()).view(runs, steps, n, size)


def tree(tokens: Tensor) -> Nodes:
    """Return every state as a node, in order, by ``tokens [states, 1 + length]`` as in ``Spaces``.

    A node's token is the last one that its state has read; one without any, as the terminal state, sees its like only.
    More of these behind the states make the number of nodes a multiple of the processor's lanes: what does not fill
    them is computed in another way, and the last of the runs would be rounded differently from the others.
    """
    length = tokens.shape[1] - 1  # no state has read all tokens
    tokens = functional.pad(tokens, (0, 0, 0, -tokens.shape[0] % _LANES), value=-1)
    number = {tuple(row): node for node, row in enumerate(tokens.tolist())}
    size = (tokens != -1).sum(dim=1).clamp(min=1)
    before = torch.zeros(length, tokens.shape[0], dtype=torch.int64)
    for node, row in enumerate(tokens.tolist()):
        for t in range(int(size[node])):
            before[t, node] = number[*row[: t + 1], *(-1,) * (length - t)]
    own = tokens.gather(1, size[:, None] - 1)[:, 0].clamp(min=0)
    return Nodes(own, size - 1, torch.arange(length)[:, None] < size, before)


def chains(strings: Tensor) -> tuple[Nodes, Tensor]:
    """Return nodes for ``strings [runs, n, t]``, -1 behind their tokens, and at which nodes they end, ``[runs, n]``."""
    _, count, length = strings.shape
    step = torch.arange(length, device=strings.device)
    size = (strings != -1).sum(dim=2).clamp(min=1)
    last = torch.arange(count, device=strings.device) * length + size - 1
    seen = (step[:, None] <= step).repeat(1, count)
    return Nodes(strings.clamp(min=0).flatten(1), step.repeat(count), seen, None), last

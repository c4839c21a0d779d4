"""One pass over a tree of token strings: values go up from the last tokens, visits and sums go down from the prompts.

A table over states ``[*b,s,...]`` is cut into levels ``[*b,x,n,...]``, one per length of prefix: the n prefixes of one
length have their n * a children one after the other, so that a level is the next one with two axes made one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rlhf_lab.worlds.token_tree import TokenTree

__all__ = ["cut", "go_up", "response_sums", "visits"]


def cut(tree: TokenTree, table: Tensor) -> tuple[Tensor, ...]:
    """Return ``table [*b,s,a]`` by length of prefix, ``[*b,x,n,a]`` each, without the terminal state."""
    inner = table[..., :-1, :].reshape(*table.shape[:-2], -1, tree.prefixes, tree.vocabulary)
    return torch.split(inner, tree.widths, dim=-2)


def go_up(tree: TokenTree, paid: Tensor, value: Callable[[Tensor, int], Tensor]) -> tuple[Tensor, Tensor]:
    """Return what follows each action ``[*b,s,a]`` and each state ``[*b,s]``, 0 at the terminal one.

    An action is followed by what it is ``paid [*b,x,p,a]`` and by the worth of the state that it leads to, which is 0
    behind an end token, where nothing is paid. ``value`` makes the worth ``[*b,x,n]`` of the prefixes of length t of
    what follows their actions ``[*b,x,n,a]``; it makes 0 of zeros.
    """
    actions: list[Tensor] = []
    states: list[Tensor] = []
    for t, following in reversed(list(enumerate(torch.split(paid, tree.widths, dim=-2)))):
        if states:
            following = following + states[-1].reshape(*states[-1].shape[:-1], -1, tree.vocabulary)
        actions.append(following)
        states.append(value(following, t))
    return _join(actions[::-1], 2), _join(states[::-1], 1)


def visits(tree: TokenTree, prompts: Tensor, policy: Tensor) -> Tensor:
    """Return the probability of passing each state ``[*b,s]``, for ``prompts [x]`` and ``policy [*b,s,a]``."""
    levels = [prompts[:, None].expand(*policy.shape[:-2], -1, -1)]
    for chances in cut(tree, policy)[:-1]:
        levels.append((levels[-1][..., None] * chances).masked_fill(tree.ending, 0).flatten(-2))
    return _join(levels, 1)


def response_sums(tree: TokenTree, table: Tensor) -> Tensor:
    """Return the sum of ``table [*b,s,a]`` over the tokens of each response, ``[*b,x,y]``."""
    edges: list[Tensor] = []
    for level in cut(tree, table):
        edges.append(edges[-1].flatten(-2)[..., None] + level if edges else level)
    return torch.cat(edges, dim=-2).flatten(-2)[..., tree.edges]


def _join(levels: Sequence[Tensor], trailing: int) -> Tensor:
    """Return ``[*b,s]``, or ``[*b,s,a]`` where ``trailing`` is 2, of its levels; 0 at the terminal state."""
    lead = np.broadcast_shapes(*(level.shape[:-trailing] for level in levels))  # torch's own is slow to import
    whole = torch.cat([level.expand(*lead, *level.shape[-trailing:]) for level in levels], dim=-trailing)
    flat = whole.flatten(-trailing - 1, -trailing)
    return torch.nn.functional.pad(flat, (0, 0) * (trailing - 1) + (0, 1))

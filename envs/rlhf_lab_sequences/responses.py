"""Responses by number, as candidates that an actor can score."""

from __future__ import annotations

from torch import Tensor

from rlhf_lab.training.candidates import Candidates
from rlhf_lab.worlds.token_tree import TokenTree

__all__ = ["side_by_side"]


def side_by_side(
    tree: TokenTree, prompts: Tensor, numbers: Tensor, runs: int | None = None, **labels: Tensor | None
) -> Candidates:
    """Return the responses ``numbers [runs, rows, k]`` to ``prompts [runs, rows]``, padded to the tree's length.

    With ``runs``, the prompts and responses of one run are those of so many; they are expanded, not copied.

    Inputs: ``prompts [runs, rows]`` are the numbers of the prompts' first states; ``prefixes``, ``tokens`` (int64) and
    ``counted`` (bool), ``[runs, rows, k, t]``, tell of each token the prefix before it, and whether there is one.
    """
    found = {
        "prompts": prompts * tree.prefixes,
        "prefixes": tree.prefix[numbers],
        "tokens": tree.tokens[numbers],
        "counted": tree.valid[numbers],
    }
    lengths = tree.lengths[numbers]
    if runs is not None:
        found = {name: x.expand(runs, *x.shape[1:]) for name, x in found.items()}
        lengths = lengths.expand(runs, *lengths.shape[1:])
    return Candidates(found, lengths, **labels)

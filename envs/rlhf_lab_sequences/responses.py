"""Responses by number, as candidates that an actor can score."""

from __future__ import annotations

from torch import Tensor

from rlhf_lab.training.candidates import Candidates
from rlhf_lab.worlds.token_tree import TokenTree

__all__ = ["side_by_side"]


def side_by_side(tree: TokenTree, prompts: Tensor, numbers: Tensor, **labels: Tensor | None) -> Candidates:
    """Return the responses ``numbers [runs, rows, k]`` to ``prompts [runs, rows]``, padded to the tree's length.

    Inputs: ``prompts [runs, rows]`` are the numbers of the prompts' first states; ``prefixes``, ``tokens`` (int64) and
    ``counted`` (bool), ``[runs, rows, k, t]``, tell of each token the prefix before it, and whether there is one.
    """
    inputs = {
        "prompts": prompts * tree.prefixes,
        "prefixes": tree.prefix[numbers],
        "tokens": tree.tokens[numbers],
        "counted": tree.valid[numbers],
    }
    return Candidates(inputs, tree.lengths[numbers], **labels)

"""Responses by number, as candidates that an actor can score."""

from __future__ import annotations

from torch import Tensor

from rlhf_lab.training.candidates import Candidates
from rlhf_lab.worlds.token_tree import TokenTree

__all__ = ["side_by_side"]


def side_by_side(tree: TokenTree, prompts: Tensor, numbers: Tensor, **labels: Tensor | None) -> Candidates:
    """Return the responses ``numbers [runs, rows, k]`` to ``prompts [runs, rows]``, padded to the tree's length.

    Numbers ``[1, rows, k]`` that are the same for all runs are expanded, not copied.

    Inputs: ``prompts [runs, rows]`` are the numbers of the prompts' first states; ``prefixes``, ``tokens`` (int64) and
    ``counted`` (bool), ``[runs, rows, k, t]``, tell of each token the prefix before it, and whether there is one.
    """
    tables = {"prefixes": tree.prefix, "tokens": tree.tokens, "counted": tree.valid}
    found = {name: table[numbers].expand(len(prompts), -1, -1, -1) for name, table in tables.items()}
    lengths = tree.lengths[numbers].expand(len(prompts), -1, -1)
    return Candidates({"prompts": prompts * tree.prefixes} | found, lengths, **labels)

"""Which of a token world's responses candidates are."""

from __future__ import annotations

from torch import Tensor

from rlhf_lab.training.candidates import Candidates
from rlhf_lab.worlds.token_tree import TokenTree

__all__ = ["response_numbers"]


def response_numbers(candidates: Candidates, tree: TokenTree) -> tuple[Tensor, Tensor]:
    """Return prompts ``[runs, rows]`` and responses ``[runs, rows, k]``, numbered as the world's tables are.

    A response without a token, which is one that does not count, has the number -1, as has one that is not finished.
    """
    inputs = candidates.inputs
    edges = inputs["prefixes"] * tree.vocabulary + inputs["tokens"]
    counts = inputs["counted"].sum(-1, keepdim=True)
    last = edges.gather(-1, (counts - 1).clamp(min=0)).clamp(0, len(tree.response_of) - 1)
    numbers = tree.response_of[last].masked_fill(counts == 0, -1)[..., 0]
    return inputs["prompts"] // tree.prefixes, numbers

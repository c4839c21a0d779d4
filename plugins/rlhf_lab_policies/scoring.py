"""Whole responses from distributions per state: which states candidates ask about, and sums over their tokens.

States of a world of token sequences are few and tokens many: where that is so, a policy is evaluated once per state and
its numbers are looked up by ``gather``, whose gradient is summed run by run in a fixed order.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from rlhf_lab.batch import true_somewhere
from rlhf_lab.errors import LabError
from rlhf_lab.training.candidates import Candidates, Scored

__all__ = ["FEW_STATES", "Responses", "scored", "total"]

FEW_STATES: Final = 4096  # up to here a policy is asked about every state, beyond it about those of the tokens only
_INPUTS: Final = ("prompts", "prefixes", "tokens", "counted")


class Responses:
    """The tokens of candidates: which ``states`` to ask a policy about, and how to look its answers up.

    ``states [runs, m]`` are those of the tokens one by one; None: every state of the world, in order, m of them.
    ``counted [runs, rows, k, t]`` tells the tokens that count; what stands at others may be anything.

    Raises ``LabError`` where the candidates are not token sequences of a world of ``states`` states, or of other runs.
    """

    def __init__(self, candidates: Candidates, states: int | None, runs: int) -> None:
        missing = [name for name in _INPUTS if name not in candidates.inputs]
        if states is None or missing:
            what = f"candidates without {', '.join(missing)}" if missing else "a policy that reads observation vectors"
            raise LabError(
                f"scoring responses: found {what}; needs candidates of a world of token sequences and a policy built "
                "for that world"
            )
        prompts, self._prefixes, self._tokens, self.counted = (candidates.inputs[name] for name in _INPUTS)
        if len(prompts) != runs:
            raise LabError(f"scoring responses: the candidates are of {len(prompts)} runs, the policy of {runs}")
        self._all_counted = not true_somewhere(~self.counted)
        # By the world's size alone, never by how many tokens there are, which grows with other runs' responses.
        if states <= FEW_STATES:
            self.states, self._first = None, prompts[..., None, None]
        else:
            self.states = self._counted(prompts[..., None, None] + self._prefixes).flatten(1)
            self._prefixes = torch.arange(self.states.shape[1], device=prompts.device).view(self.counted.shape[1:])
            self._first = torch.zeros_like(prompts)[..., None, None]
        self._places: Tensor | None = None  # of the tokens, once it is known how many actions there are

    def of_tokens(self, table: Tensor) -> Tensor:
        """Return what ``table [runs, m, actions]`` says of each token, ``[runs, rows, k, t]``; 0 where not counted."""
        if self._places is None:
            actions = table.shape[2]
            place = torch.add(self._tokens, self._prefixes, alpha=actions)
            self._places = self._counted(place.add_(self._first * actions + 1)).flatten(1)
        return self._look_up(table, self._places)

    def of_steps(self, table: Tensor) -> Tensor:
        """Return what ``table [runs, m]`` says of each token's state, ``[runs, rows, k, t]``; 0 where not counted."""
        return self._look_up(table, self._counted(self._prefixes + (self._first + 1)).flatten(1))

    def _look_up(self, table: Tensor, place: Tensor) -> Tensor:
        """Return the numbers of ``table`` at ``place``, which counts from 1; 0 stands before the first of them."""
        return functional.pad(table.flatten(1), (1, 0)).gather(1, place).view(self.counted.shape)

    def _counted(self, place: Tensor) -> Tensor:
        """Return ``place``, its own storage, with 0 where not counted; filling by a mask takes three times as long."""
        return place if self._all_counted else place.mul_(self.counted)


def scored(responses: Responses, current: Tensor, reference: Tensor | None, fields: frozenset[str]) -> Scored:
    """Return what log-probabilities ``[runs, m, actions]`` of the states asked for say of the responses.

    ``fields`` names what is wanted beyond the sums over tokens.
    """
    by_token = responses.of_tokens(current)
    answer = Scored(
        total(by_token),
        token_log_probs=by_token if "token_log_probs" in fields else None,
        token_valid=responses.counted if "token_valid" in fields else None,
    )
    if reference is None:
        return answer
    ref_by_token = responses.of_tokens(reference)
    divergence = None
    if "token_kl" in fields:
        never = reference == -torch.inf  # illegal, where 0 (-inf + inf) is 0
        apart = (reference - current).masked_fill(never, 0)
        divergence = total(responses.of_steps((reference.exp() * apart).sum(dim=-1)))
    return replace(
        answer,
        ref_log_probs=total(ref_by_token),
        token_ref_log_probs=ref_by_token if "token_ref_log_probs" in fields else None,
        token_kl=divergence,
    )


def total(x: Tensor) -> Tensor:
    """Return ``[runs, rows, k]`` sums over the steps of ``x [runs, rows, k, t]``.

    One by one, so that the padding of longer responses changes no bit; with few steps it is also the fastest.
    """
    return reduce(torch.add, x.unbind(-1))

"""Actors on finite worlds that give the preferences of all states at once."""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

from torch import Tensor

from rlhf_lab_policies.actor import StackedActor, Weights
from rlhf_lab_policies.distributions import Categorical, TabulatedCategorical
from rlhf_lab_policies.stacked import take

__all__ = ["PerStateActor"]

_FEW_STATES: Final = 256  # up to here normalising every state costs little, even where few of them are asked for


class PerStateActor(StackedActor):
    """Softmax of preferences that ``_logits`` gives state by state; a critic is one weight per state."""

    @abstractmethod
    def _logits(self, weights: Weights) -> Tensor:
        """Return the preferences ``[runs, states, actions]``."""

    def _distribution(self, weights: Weights, observations: Tensor, mask: Tensor | None) -> Categorical:
        logits = self._logits(weights)
        # Not by the number of rows, which grows with other runs' episodes: the two ways differ in their last bits.
        if mask is None and logits.shape[1] <= _FEW_STATES:
            return TabulatedCategorical(logits, observations)
        chosen = take(logits, observations)
        if mask is None:
            return Categorical(chosen.log_softmax(dim=-1), logits=chosen)
        return Categorical.from_logits(chosen, mask)

    def _every_state(self, weights: Weights) -> Categorical:
        logits = self._logits(weights)
        if self.legal is None:
            return Categorical.from_table(logits)
        return Categorical.from_logits(logits, self.legal.expand_as(logits))

    def _values(self, weights: Weights, observations: Tensor) -> Tensor | None:
        return weights["critic"].gather(1, observations) if "critic" in weights else None

    def _score_norms(self, observations: Tensor, actions: Tensor, mask: Tensor | None) -> Tensor:
        scores = self._distribution(self.weights, observations, mask).score(actions)
        return self._squared_norms(scores, observations)

    @abstractmethod
    def _squared_norms(self, scores: Tensor, states: Tensor) -> Tensor:
        """Return ‖∇_θ log π(a|s)‖² ``[runs, n]`` from the gradients with respect to a state's logits, ``scores``."""

"""Optimiser steps of a preference objective: score the responses, call the objective, watch how it ranks."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.training.candidates import Candidates, rankings
from rlhf_lab.training.protocols import Setup
from rlhf_lab.types import Rankings
from rlhf_lab_trainers.ranked_learner import RankedLearner
from rlhf_lab_trainers.ranking_metrics import ranking_metrics

__all__ = ["GIVEN", "PreferenceLearner"]

GIVEN: Final = frozenset({"lengths", "uniforms", "mismatched_log_probs", "mismatched_ref_log_probs"})
"""The optional fields of ``Rankings`` that the loop fills, whatever policy and data are."""

_BY_TOKEN: Final = frozenset({"token_log_probs", "token_ref_log_probs", "token_valid", "token_kl"})
_BY_REFERENCE: Final = frozenset({"ref_log_probs", "mismatched_ref_log_probs", "token_ref_log_probs", "token_kl"})


class PreferenceLearner(RankedLearner):
    """A loop whose optimiser steps minimise the objective of role ``preference``."""

    def __init__(self, setup: Setup, max_grad_norm: float, objective: Any, envs: int = 1) -> None:
        super().__init__(setup, max_grad_norm, objective, envs)
        self._fields = self.loss.needs & _BY_TOKEN
        self.takes_mismatched = any(name.startswith("mismatched") for name in self.loss.needs)
        self.with_reference = bool(self.loss.needs & _BY_REFERENCE)

    def _scored(self, candidates: Candidates) -> tuple[Rankings, dict[str, Tensor]]:
        scored = self.actor.score(candidates, self._fields)
        others = None
        if self.takes_mismatched:
            with torch.no_grad():  # they tell how far the policy has moved, and are never learned from
                others = self.actor.score(candidates.mismatched())
        optional = self.loss.optional(self.updates, candidates.rows, scored.log_probs.dtype)
        seen = ranking_metrics(candidates, scored.log_probs, scored.ref_log_probs)
        return rankings(candidates, scored, others, **optional), seen

    def _outputs(self, candidates: Candidates) -> Tensor:
        said: Tensor = self.actor.score(candidates).log_probs
        return said

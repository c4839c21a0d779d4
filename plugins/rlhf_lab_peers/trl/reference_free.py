"""TRL's SimPO, out of ``CPOTrainer.cpo_loss`` of ``trl.experimental``, which TRL may change without notice.

That takes log-probabilities of responses: their means over tokens here, as ``get_batch_logps`` gives them for SimPO.
Its trainer adds ``cpo_alpha`` (1 by default) times the cross-entropy of the chosen response; SimPO is ``cpo_alpha=0``.

Not wrapped:
- CPO itself, and SimPO with that term: the cross-entropy is a function inside ``concatenated_forward``, of logits over
  a vocabulary. Logits made up of log-probabilities would lose digits on the way, and TRL would be judged by ours.
- ORPO: its cross-entropy, inside as well, is over the prompt too, and ``odds_ratio_loss`` takes no float64.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from pydantic import Field

from rlhf_lab.components import PreferenceObjective
from rlhf_lab.types import Loss, Rankings, Refused
from rlhf_lab_peers.limits import refuse_empty
from rlhf_lab_peers.trl.trainer import trainer

__all__ = ["SimPO"]


@cache
def _trainer_class() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are importing from 'trl.experimental'")
        from trl.experimental.cpo import CPOTrainer

    return CPOTrainer


class SimPO(PreferenceObjective):
    """SimPO: −log sigmoid(β (w/|w| − l/|l|) − simpo_gamma), with log-probabilities w and l of both responses.

    Source: trl/experimental/cpo/cpo_trainer.py, loss_type="simpo"; Meng et al. 2024, eq. 6.
    """

    name = "simpo@trl"
    reference = "TRL, CPOTrainer; Meng et al. 2024, eq. 6"
    requires = frozenset({"lengths"})
    implements = "simpo"
    conventions = {"gamma": "simpo_gamma"}
    max_candidates = 2

    beta: float = Field(default=0.1, gt=0, description="how much a difference of scores counts")
    simpo_gamma: float = Field(default=0.5, ge=0, description="how far ahead the chosen response must be")

    def model_post_init(self, context: Any) -> None:
        _trainer_class()

    def __call__(self, batch: Rankings) -> Loss:
        refuse_empty(batch.log_probs)
        if batch.lengths is None:
            raise Refused("lengths is None")
        whole = torch.ones_like(batch.log_probs[..., 0], dtype=torch.bool)
        if batch.valid is not None:
            whole = batch.valid.all(-1)
        means = batch.log_probs[whole] / batch.lengths[whole]
        trained = trainer(
            alpha=0.0, label_smoothing=0.0, loss_type="simpo", beta=self.beta, simpo_gamma=self.simpo_gamma
        )
        losses, *_ = _trainer_class().cpo_loss(trained, means[:, 0], means[:, 1])
        values = torch.zeros_like(batch.log_probs[..., 0]).masked_scatter(whole, losses)
        return Loss(values, weights=whole.to(values.dtype))

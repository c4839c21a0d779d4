"""TRL's losses of reward models, out of ``RewardTrainer.compute_loss``, one pair at a time as that returns their mean.

The stand-in for the model answers with the scores of both responses. A row without a pair is not put to TRL and has
weight 0.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import RewardObjective
from rlhf_lab.types import Loss, Refused, Scores
from rlhf_lab_peers.limits import given, refuse_empty
from rlhf_lab_peers.trl.trainer import peer, trainer

__all__ = ["BradleyTerry", "BradleyTerryCentred", "BradleyTerryMargin"]


class _ScoreLoss(RewardObjective):
    max_candidates = 2

    def model_post_init(self, context: Any) -> None:
        peer()

    def __call__(self, batch: Scores) -> Loss:
        refuse_empty(batch.scores)
        valid = torch.ones_like(batch.scores, dtype=torch.bool) if batch.valid is None else batch.valid
        if bool((valid.sum(-1) > 2).any()):
            raise Refused("a row of more than two candidates; TRL compares pairs")
        whole = valid.sum(-1) == 2
        values = torch.zeros_like(batch.scores[..., 0])
        if bool(whole.any()):
            pairs = batch.scores[whole][valid[whole]].view(-1, 2)
            margins = self._margins(batch, whole)
            found = [self._loss(*each) for each in zip(pairs, margins, strict=True)]
            values = values.masked_scatter(whole, torch.stack(found))
        return Loss(values, weights=whole.to(values.dtype))

    def _margins(self, batch: Scores, whole: Tensor) -> list[Tensor | None]:
        """Return what the data says of each pair's margin."""
        return [None] * int(whole.sum())

    def _loss(self, scores: Tensor, margin: Tensor | None) -> Tensor:
        """Return the loss of one pair ``[2]``, the chosen response first."""
        inputs = {"attention_mask": torch.ones(2, 1, dtype=torch.long)}
        if margin is not None:
            inputs["margin"] = margin[None]
        trained = trainer(
            args=SimpleNamespace(center_rewards_coefficient=getattr(self, "center_rewards_coefficient", None)),
            _total_train_tokens=0,
            _tp_size=1,
        )
        outputs = SimpleNamespace(logits=scores[:, None])
        found: Tensor = peer().RewardTrainer.compute_loss(trained, lambda **_: outputs, inputs)
        return found


class BradleyTerry(_ScoreLoss):
    """Bradley-Terry: −log sigmoid of the difference of both scores.

    Source: trl/trainer/reward_trainer.py; Bradley & Terry 1952; Ouyang et al. 2022, eq. 1.
    """

    name = "bradley_terry@trl"
    reference = "TRL, RewardTrainer; Bradley & Terry 1952"
    implements = "bradley_terry"


class BradleyTerryMargin(_ScoreLoss):
    """Bradley-Terry less a margin, which TRL subtracts where its data has a column of that name.

    Source: trl/trainer/reward_trainer.py; Touvron et al. 2023 (Llama 2), eq. 2.
    """

    name = "bradley_terry_margin@trl"
    reference = "TRL, RewardTrainer; Touvron et al. 2023 (Llama 2), eq. 2"
    requires = frozenset({"margins"})
    implements = "bradley_terry_margin"

    def _margins(self, batch: Scores, whole: Tensor) -> list[Tensor | None]:
        return list(given(batch.margins, "margins")[whole])


class BradleyTerryCentred(_ScoreLoss):
    """Bradley-Terry with a pull of the sum of both scores to 0.

    TRL's own default of None switches this off; its documentation recommends 0.01.

    Source: trl/trainer/reward_trainer.py; Eisenstein et al. 2023 (Helping or herding?).
    """

    name = "bradley_terry_centred@trl"
    reference = "TRL, RewardTrainer; Eisenstein et al. 2023"
    implements = "bradley_terry_centred"
    conventions = {"coef": "center_rewards_coefficient"}

    center_rewards_coefficient: float = Field(default=0.01, ge=0, description="how dear it is to leave opposite scores")

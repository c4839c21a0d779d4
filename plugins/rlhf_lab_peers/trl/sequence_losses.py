"""TRL's sequence-level policy losses out of ``GRPOTrainer._compute_loss`` and ``RLOOTrainer._compute_loss``.

Each episode is a completion and is asked for alone; one loss per completion is repeated on its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import PolicyObjective
from rlhf_lab.types import Loss, PolicyBatch, Refused
from rlhf_lab_peers.limits import given, refuse_empty, sequences
from rlhf_lab_peers.trl.trainer import peer, policy_trainer, token_loss

__all__ = ["GSPO", "RLOO", "VESPO"]


class _Loss(PolicyObjective):
    requires = frozenset({"old_log_probs"})
    scope = "episode"

    def model_post_init(self, context: Any) -> None:
        peer()


class GSPO(_Loss):
    """GSPO of TRL: the clipped surrogate with one ratio per completion, the geometric mean of its tokens' ratios.

    Calls ``GRPOTrainer._compute_loss`` with ``importance_sampling_level="sequence"``. Its default bound is that of
    GRPO, far wider than the paper's 3e-4. Advantages that differ within an episode are refused.

    Source: trl/trainer/grpo_trainer.py; Zheng et al. 2025 (GSPO), eq. 5 to 7.
    """

    name = "gspo@trl"
    reference = "TRL, GRPOTrainer; Zheng et al. 2025 (GSPO), eq. 5 to 7"
    implements = "gspo"
    conventions = {"clip_low": "epsilon", "clip_high": "epsilon"}

    epsilon: float = Field(default=0.2, ge=0, description="how far the ratio may pay off from 1")

    def __call__(self, batch: PolicyBatch) -> Loss:
        def loss(episode: _Episode) -> Tensor:
            mask = torch.ones_like(episode.advantages)
            inputs = {"old_per_token_logps": episode.old_log_probs}
            trained = policy_trainer("grpo", importance_sampling_level="sequence", epsilon=self.epsilon)
            return token_loss(episode.log_probs, mask, episode.advantages[:, 0], inputs, trained)

        return _repeated(batch, loss)


class VESPO(_Loss):
    """VESPO of TRL: −sg(φ(W)) A log π, with φ(W) = exp(λ) Wᵏ exp(−λ W) and W the product of a completion's ratios.

    Calls ``GRPOTrainer._compute_loss`` with ``loss_type="vespo"``. W depends on the mask without gradient, so that the
    derivative by the mask is taken at the mask itself.

    Source: trl/trainer/grpo_trainer.py; arXiv 2602.10693.
    """

    name = "vespo@trl"
    reference = "TRL, GRPOTrainer; arXiv 2602.10693"

    vespo_k_pos: float = Field(default=2.0, ge=0, description="power of the ratio where the advantage is positive")
    vespo_lambda_pos: float = Field(default=3.0, ge=0, description="decay with the ratio where it is positive")
    vespo_k_neg: float = Field(default=3.0, ge=0, description="power of the ratio elsewhere")
    vespo_lambda_neg: float = Field(default=2.0, ge=0, description="decay with the ratio elsewhere")

    def __call__(self, batch: PolicyBatch) -> Loss:
        args = {name: getattr(self, name) for name in type(self).model_fields}
        values = torch.zeros_like(batch.log_probs)
        for episode in _episodes(batch):
            mask = torch.ones_like(episode.advantages, requires_grad=True)
            inputs = {"old_per_token_logps": episode.old_log_probs}
            trained = policy_trainer("vespo", args=args)
            loss = token_loss(episode.log_probs, mask, episode.advantages, inputs, trained)
            (found,) = torch.autograd.grad(loss, mask, create_graph=True)
            values = values.index_put(episode.where, found[0])
        return Loss(values)


class RLOO(_Loss):
    """The loss of TRL's RLOO: the clipped surrogate with one ratio per completion, the product of its tokens' ratios.

    Calls ``RLOOTrainer._compute_loss``. Advantages that differ within an episode are refused.

    Source: trl/trainer/rloo_trainer.py; Ahmadian et al. 2024.
    """

    name = "rloo@trl"
    reference = "TRL, RLOOTrainer; Ahmadian et al. 2024"

    epsilon: float = Field(default=0.2, ge=0, description="how far the ratio may pay off from 1")
    epsilon_high: float | None = Field(default=None, ge=0, description="the same above 1; None = epsilon")

    def __call__(self, batch: PolicyBatch) -> Loss:
        def loss(episode: _Episode) -> Tensor:
            trained = policy_trainer("", epsilon=self.epsilon, epsilon_high=self.epsilon_high)
            answer = (episode.log_probs, torch.zeros_like(episode.advantages), None)
            trained._get_per_token_logps_and_entropies = lambda *_, **__: answer
            ids = torch.zeros(episode.advantages.shape, dtype=torch.long)
            inputs = {
                "prompt_ids": ids[:, :1],
                "prompt_mask": ids[:, :1] + 1,
                "completion_ids": ids,
                "completion_mask": ids + 1,
                "old_logps": episode.old_log_probs.sum(-1),
                "advantages": episode.advantages[:, 0],
            }
            found: Tensor = peer().RLOOTrainer._compute_loss(trained, None, inputs)
            return found

        return _repeated(batch, loss)


class _Episode(NamedTuple):
    """One completion ``[1, tokens]``, and where its tokens stand in the batch."""

    where: tuple[Tensor, ...]
    log_probs: Tensor
    old_log_probs: Tensor
    advantages: Tensor


def _episodes(batch: PolicyBatch) -> Iterator[_Episode]:
    refuse_empty(batch.log_probs)
    old, advantages = given(batch.old_log_probs, "old_log_probs"), batch.advantages.detach()
    shape = batch.valid.shape
    rows = torch.arange(shape[:-1].numel())
    flat = sequences(batch.valid.view(-1, shape[-1]), batch.ends.view(-1, shape[-1]))
    for row, steps in flat:
        lead = torch.unravel_index(rows[row], shape[:-1])
        where = (*(x.expand(len(steps)) for x in lead), steps)
        yield _Episode(where, *(x[where][None] for x in (batch.log_probs, old, advantages)))


def _repeated(batch: PolicyBatch, loss: Callable[[_Episode], Tensor]) -> Loss:
    """Return the loss of each episode on each of its steps."""
    values = torch.zeros_like(batch.log_probs)
    for episode in _episodes(batch):
        if bool((episode.advantages != episode.advantages[:, :1]).any()):
            raise Refused("advantages differ within an episode; there is one per completion")
        count = episode.advantages.shape[1]
        values = values.index_put(episode.where, loss(episode).expand(count))
    return Loss(values)

"""TRL's trainers without training: what their methods read of ``self``, and nothing else.

TRL computes advantages and losses inside methods of its trainers; there is no function of them. So the method is
called with a stand-in for the trainer: one process, one micro-batch per step, no model; its log-probabilities are ours.
Torch's default dtype, which a few of TRL's factors have, is meanwhile the batch's, so that rounding is not judged.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from rlhf_lab.calling import default_dtype

__all__ = ["advantages", "peer", "policy_trainer", "scoring_trainer", "token_loss", "trainer"]


@cache
def peer() -> Any:
    """Return TRL's trainer classes, as one namespace."""
    from trl import DPOTrainer, GRPOTrainer, KTOTrainer, RewardTrainer, RLOOTrainer

    return SimpleNamespace(
        GRPOTrainer=GRPOTrainer,
        RLOOTrainer=RLOOTrainer,
        DPOTrainer=DPOTrainer,
        KTOTrainer=KTOTrainer,
        RewardTrainer=RewardTrainer,
    )


def trainer(**more: Any) -> SimpleNamespace:
    """Return a stand-in for a trainer, with TRL's defaults where they switch something off."""
    options: dict[str, Any] = {
        "model": SimpleNamespace(training=True, is_gradient_checkpointing=False),
        "accelerator": SimpleNamespace(
            device=torch.device("cpu"),
            num_processes=1,
            process_index=0,
            sync_gradients=True,
            gather=lambda x: x,
            gather_for_metrics=lambda x: x,
            reduce=lambda x, reduction: x,
        ),
        "aux_loss_enabled": False,
        "beta": 0.0,
        "use_vllm": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        **more,
    }
    return SimpleNamespace(**options)


def policy_trainer(
    loss_type: str,
    *,
    args: dict[str, Any] | None = None,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    **more: Any,
) -> SimpleNamespace:
    """Return a stand-in for a trainer that is about to compute a policy loss."""
    options: dict[str, Any] = {
        "args": SimpleNamespace(**{"delta": None, "steps_per_generation": 1, **(args or {})}),
        "loss_type": loss_type,
        "epsilon_low": epsilon,
        "epsilon_high": epsilon if epsilon_high is None else epsilon_high,
        "importance_sampling_level": "token",
        "current_gradient_accumulation_steps": 1,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "_entropy_bonus_enabled": False,
        **more,
    }
    return trainer(**options)


def token_loss(
    log_probs: Tensor, mask: Tensor, advantages: Tensor, inputs: dict[str, Tensor], trained: SimpleNamespace
) -> Tensor:
    """Return the loss of ``GRPOTrainer`` for completions ``[rows, t]`` with these log-probabilities, one number."""
    rows = len(log_probs)
    answer = (log_probs, torch.zeros_like(log_probs), None)  # log-probabilities, entropies, auxiliary loss
    trained._get_per_token_logps_and_entropies = lambda *_, **__: answer
    trained.get_gamma_weights = peer().GRPOTrainer.get_gamma_weights
    given = {
        "prompt_ids": torch.zeros(rows, 1, dtype=torch.long),
        "prompt_mask": torch.ones(rows, 1, dtype=mask.dtype),
        "completion_ids": torch.zeros(log_probs.shape, dtype=torch.long),
        "completion_mask": mask,
        "advantages": advantages,
        "num_items_in_batch": torch.ones((), dtype=log_probs.dtype),
        **inputs,
    }
    with torch.enable_grad(), default_dtype(log_probs.dtype):
        loss: Tensor = peer().GRPOTrainer._compute_loss(trained, None, given)
    return loss


def advantages(kind: Any, scores: Tensor, trained: SimpleNamespace) -> Tensor:
    """Return the advantages that a trainer of some ``kind`` gives completions with these ``scores [n]``."""
    with default_dtype(scores.dtype):
        answer = kind._generate_and_score_completions(trained, [{"prompt": ""}] * len(scores))
    found: Tensor = answer["advantages"]
    return found


def scoring_trainer(scores: Tensor, num_generations: int, **more: Any) -> SimpleNamespace:
    """Return a stand-in for a trainer that is about to score completions ``[n]``."""
    count = len(scores)
    return trainer(
        args=SimpleNamespace(
            per_device_train_batch_size=count,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            gradient_checkpointing_kwargs=None,
        ),
        num_iterations=1,
        num_generations=num_generations,
        environment_factories=None,
        environments=None,
        tools=None,
        pad_to_multiple_of=None,
        mask_truncated_completions=False,
        log_multimodal=False,
        _tokenizer=SimpleNamespace(pad_token_id=0),
        _calculate_rewards=lambda *_: scores[:, None],
        reward_weights=torch.ones(1, dtype=scores.dtype),
        reward_func_names=["score"],
        _logs=defaultdict(list, rewards=defaultdict(list), extra=defaultdict(list)),
        _pending_extra_logs={},
        _pending_metrics={},
        **more,
    )

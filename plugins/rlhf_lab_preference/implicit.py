"""What losses on a policy's responses share: the implicit reward, pairs of responses, and the metrics.

Only ``log_probs`` carries gradient: reference and labels are detached where they are read.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from rlhf_lab.types import BatchError, Loss, Rankings, clean
from rlhf_lab_preference.candidates import Pair, pair_in, pair_loss

__all__ = ["given", "lengths_of", "log_prob_pair", "log_ratio_pair", "log_ratios", "loss_of_pairs"]


def log_ratios(batch: Rankings) -> Tensor:
    """Return ``log π − log π_ref`` of each response ``[*b,k]``, with gradient in π only, 0 where not valid."""
    # Cleaning after a subtraction is safe: its gradient does not depend on the inputs.
    ratios = batch.log_probs - given(batch.ref_log_probs, "ref_log_probs")
    return ratios if batch.valid is None else clean(ratios, batch.valid)


def log_ratio_pair(batch: Rankings) -> Pair:
    """Return the log-ratios a of the chosen and b of the rejected response of each row ``[*b]``."""
    return pair_in(log_ratios(batch), batch.valid)


def log_prob_pair(batch: Rankings) -> Pair:
    """Return the log-probabilities of the chosen and of the rejected response of each row ``[*b]``."""
    return pair_in(batch.log_probs, batch.valid)


def lengths_of(batch: Rankings) -> Pair:
    """Return how many tokens the chosen and the rejected response have; 1 where there is none."""
    pair = pair_in(given(batch.lengths, "lengths").to(batch.log_probs.dtype), batch.valid)
    return replace(pair, better=pair.better.clamp(min=1), worse=pair.worse.clamp(min=1))


def given(x: Tensor | None, name: str) -> Tensor:
    """Return an optional field that a loss needs, detached; raises ``BatchError`` where there is none."""
    if x is None:
        raise BatchError(f"Rankings.{name}: this loss reads it, found None")
    return x.detach()


def loss_of_pairs(values: Tensor, pair: Pair, beta: float = 1.0) -> Loss:
    """Return the loss ``values [*b]`` of pairs, 0 and of weight 0 where a response is missing.

    Metrics: ``margin``, beta times the difference of the pair, and ``accuracy``, 1 where it is positive and ½ where it
    is 0.
    """
    rewards = replace(pair, better=beta * pair.better.detach(), worse=beta * pair.worse.detach())
    return pair_loss(values, rewards)

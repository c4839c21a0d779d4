"""How per-step losses become the loss of a run: ``Σ weights · values / Σ total``, summed over all its micro-batches.

A sequence is an episode with a valid step; a row may hold several, and one that the row's end cuts off counts as well.
All four agree up to a factor where sequences have equal lengths. ``Weights`` are float64, since they know no dtype of
values and 1/length must not round at float32; invalid steps weigh 0.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Aggregation
from rlhf_lab.types import Weights

__all__ = ["Constant", "SequenceMean", "SequenceSum", "TokenMean"]


class TokenMean(Aggregation):
    """Every valid step weighs the same, so long sequences weigh more than short ones.

    ``Σ loss / number of valid steps``

    ``valid``, ``ends`` ``[*b,t]``; a step's weight depends on nothing but itself.

    Source: Schulman et al. 2017, eq. 7; Yu et al. 2025 (DAPO), eq. 12.
    """

    name = "token_mean"
    reference = "Schulman et al. 2017, eq. 7"
    scope = "step"
    claims = frozenset(
        {
            "is-a-mean",
            "every-step-weighs-alike",
            "steps-of-a-sequence-weigh-alike",
            "equal-lengths-weigh-alike",
            "cut-off-episodes-count",
        }
    )
    implements = "token_mean"
    stacked = True

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        ones = valid.double()
        return Weights(ones, ones)


class SequenceMean(Aggregation):
    """Every sequence weighs the same, so a step of a long one weighs less than a step of a short one.

    ``mean over sequences of (Σ loss / length)``

    ``valid``, ``ends`` ``[*b,t]``; the length counts valid steps.

    Source: Shao et al. 2024 (GRPO), eq. 3.
    """

    name = "sequence_mean"
    reference = "Shao et al. 2024 (GRPO), eq. 3"
    claims = frozenset(
        {
            "is-a-mean",
            "every-sequence-weighs-alike",
            "steps-of-a-sequence-weigh-alike",
            "equal-lengths-weigh-alike",
            "cut-off-episodes-count",
        }
    )
    implements = "sequence_mean"
    stacked = True

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        shares = _shares(valid, ends)
        return Weights(shares, shares)


class SequenceSum(Aggregation):
    """The mean over sequences of their summed loss: with ``reinforce``, the gradient of the expected return.

    ``Σ loss / number of sequences``

    ``valid``, ``ends`` ``[*b,t]``.

    Source: Williams 1992; Sutton & Barto 2018, eq. 13.8 summed over an episode.
    """

    name = "sequence_sum"
    reference = "Williams 1992"
    claims = frozenset(
        {
            "sequence-sums-averaged",
            "every-step-weighs-alike",
            "steps-of-a-sequence-weigh-alike",
            "length-free",
            "equal-lengths-weigh-alike",
            "cut-off-episodes-count",
        }
    )
    implements = "sequence_sum"
    stacked = True

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), _shares(valid, ends))


class Constant(Aggregation):
    """``sequence_sum`` divided by a fixed length, so that no step's weight depends on how long its sequence became.

    ``Σ loss / (number of sequences · length)``

    ``valid``, ``ends`` ``[*b,t]``. ``length`` is usually the longest response that is allowed, and never the longest
    that happened: the loss would depend on the micro-batch.

    Source: Liu et al. 2025 (Dr. GRPO), section 3.2.
    """

    name = "constant"
    reference = "Liu et al. 2025 (Dr. GRPO), section 3.2"
    claims = frozenset(
        {
            "inversely-proportional-to-length",
            "length-one-is-sequence-sum",
            "every-step-weighs-alike",
            "steps-of-a-sequence-weigh-alike",
            "length-free",
            "equal-lengths-weigh-alike",
            "cut-off-episodes-count",
        }
    )
    implements = "constant"
    stacked = True
    length: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="divisor of each sequence's summed loss")

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), self.length * _shares(valid, ends))


def _shares(valid: Tensor, ends: Tensor) -> Tensor:
    """Return each valid step's share of its sequence, 1 / length: they sum to one per sequence."""
    steps = valid.double()
    episode = ends.cumsum(-1) - ends.long()  # [*b,t] how many episodes ended before the step, below t
    lengths = torch.zeros_like(steps).scatter_add(-1, episode, steps)  # [*b,episode]
    return steps / lengths.gather(-1, episode).clamp(min=1)

"""Losses on log-probabilities per token, so that long responses weigh no more than short ones."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.components import PreferenceObjective
from rlhf_lab.types import Loss, Rankings
from rlhf_lab_preference.candidates import Pair
from rlhf_lab_preference.implicit import lengths_of, log_prob_pair, log_ratio_pair, loss_of_pairs

__all__ = ["ORPO", "RDPO", "DPONorm", "SimPO"]

_CERTAIN = -1e-12  # a log-probability per token beyond which the odds of a response count as no higher


class DPONorm(PreferenceObjective):
    """Length-normalised DPO: DPO on the mean log-ratio of a response's tokens instead of their sum.

    ``L = −log σ(β (a/|y_w| − b/|y_l|))``,  a, b = log(π/π_ref) of the chosen, rejected response

    For responses of equal length n it is DPO with β/n.

    Reads ``log_probs``, ``ref_log_probs``, ``lengths`` ``[*b,2]``.

    Source: Lambert et al. 2024 (Tulu 3), eq. 6, where β is 5.
    """

    name = "dpo_norm"
    reference = "Lambert et al. 2024 (Tulu 3), eq. 6"
    requires = frozenset({"ref_log_probs", "lengths"})
    claims = frozenset(
        {
            "beta-is-a-unit",
            "chosen-up-rejected-down",
            "chosen-up-rejected-down-at-the-reference",
            "convex-in-log-probs",
            "depends-on-log-ratios-only",
            "equal-lengths-are-dpo",
            "every-row-counts-once",
            "gradient-of-its-value",
            "log-two-at-the-reference",
            "non-negative",
            "orders-sum-to-one",
            "per-token-means",
        }
    )
    implements = "dpo_norm"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=5.0, gt=0, description="how dear it is to leave the reference policy, per token")

    def __call__(self, batch: Rankings) -> Loss:
        pair = _per_token(log_ratio_pair(batch), batch)
        return loss_of_pairs(-logsigmoid(self.beta * pair.difference), pair, self.beta)


class RDPO(PreferenceObjective):
    """DPO with a price on length: what a longer chosen response gains by its length is not learned.

    ``L = −log σ(β h + alpha (|y_w| − |y_l|))``,  ``h = log(π/π_ref)(y_w) − log(π/π_ref)(y_l)``

    It is the likelihood of preferences of which alpha per token is due to length alone.

    Reads ``log_probs``, ``ref_log_probs``, ``lengths`` ``[*b,2]``.

    Source: Park et al. 2024, eq. 9.
    """

    name = "r_dpo"
    reference = "Park et al. 2024, eq. 9"
    requires = frozenset({"ref_log_probs", "lengths"})
    claims = frozenset(
        {
            "beta-is-a-unit",
            "chosen-up-rejected-down",
            "chosen-up-rejected-down-at-the-reference",
            "convex-in-log-probs",
            "depends-on-log-ratios-only",
            "depends-on-the-margin-only",
            "equal-and-opposite-pulls",
            "equal-lengths-have-no-price",
            "every-row-counts-once",
            "gradient-of-its-value",
            "length-shifts-the-margin",
            "non-negative",
            "orders-sum-to-one",
        }
    )
    implements = "r_dpo"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    alpha: float = Field(default=0.05, ge=0, description="reward per token of length that is to be ignored")

    def __call__(self, batch: Rankings) -> Loss:
        pair, lengths = log_ratio_pair(batch), lengths_of(batch)
        return loss_of_pairs(
            -logsigmoid(self.beta * pair.difference + self.alpha * lengths.difference), pair, self.beta
        )


class SimPO(PreferenceObjective):
    """Simple preference optimisation: no reference; the mean log-probability of a response's tokens is its reward.

    ``L = −log σ(β log π(y_w)/|y_w| − β log π(y_l)/|y_l| − gamma)``

    Reads ``log_probs``, ``lengths`` ``[*b,2]``.

    Source: Meng et al. 2024, eq. 6.
    """

    name = "simpo"
    reference = "Meng et al. 2024, eq. 6"
    requires = frozenset({"lengths"})
    claims = frozenset(
        {
            "chosen-up-rejected-down",
            "convex-in-log-probs",
            "every-row-counts-once",
            "gamma-is-a-handicap",
            "gradient-of-its-value",
            "non-negative",
            "per-token-means",
            "single-tokens-are-dpo",
        }
    )
    implements = "simpo"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=2.0, gt=0, description="scale of the reward")
    gamma: float = Field(default=1.0, ge=0, description="margin by which the chosen response should win")

    def __call__(self, batch: Rankings) -> Loss:
        pair = _per_token(log_prob_pair(batch), batch)
        return loss_of_pairs(-logsigmoid(self.beta * pair.difference - self.gamma), pair, self.beta)


class ORPO(PreferenceObjective):
    """Odds-ratio preference optimisation: supervised learning of the chosen response, and odds against the other.

    ``L = −log p_w − lam log σ(log odds(p_w) − log odds(p_l))``,  ``odds(p) = p / (1 − p)``

    p is the geometric mean of a response's token probabilities, log p = log π(y)/|y|. There is no reference. Where p is
    next to 1 its odds are held at 1e12, and no gradient comes from beyond.

    Reads ``log_probs``, ``lengths`` ``[*b,2]``.

    Source: Hong et al. 2024, eq. 6 and 7.
    """

    name = "orpo"
    reference = "Hong et al. 2024, eq. 6 and 7"
    requires = frozenset({"lengths"})
    claims = frozenset(
        {
            "chosen-up-rejected-down",
            "every-row-counts-once",
            "gradient-of-its-value",
            "log-two-at-equal-odds",
            "non-negative",
            "odds-of-complements-are-opposite",
            "per-token-means",
            "small-odds-are-probabilities",
        }
    )
    implements = "orpo"
    stacked = True
    max_candidates = 2
    lam: float = Field(default=0.1, ge=0, description="weight of the odds ratio")

    def __call__(self, batch: Rankings) -> Loss:
        pair = _per_token(log_prob_pair(batch), batch)
        odds = replace(pair, better=_log_odds(pair.better), worse=_log_odds(pair.worse))
        return loss_of_pairs(-pair.better - self.lam * logsigmoid(odds.difference), odds)


def _per_token(pair: Pair, batch: Rankings) -> Pair:
    lengths = lengths_of(batch)
    return replace(pair, better=pair.better / lengths.better, worse=pair.worse / lengths.worse)


def _log_odds(log_probs: Tensor) -> Tensor:
    """Return ``log p − log(1 − p)``; expm1 keeps the digits of p next to 1, where 1 − p itself has none."""
    held = log_probs.clamp(max=_CERTAIN)
    return held - (-held.expm1()).log()

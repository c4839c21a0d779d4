"""Losses on pairs of responses whose difference of scores is a log-odds: the Bradley-Terry model and its relatives."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from rlhf_lab.components import RewardObjective
from rlhf_lab.types import Loss, Scores
from rlhf_lab_preference.candidates import pair_loss, pair_of

__all__ = ["BradleyTerry"]


class BradleyTerry(RewardObjective):
    """The negative log-likelihood of a comparison whose log-odds are the difference of two scores.

    ``L = −log σ(r_w − r_l)``,  ``P(w beats l) = e^{r_w} / (e^{r_w} + e^{r_l})``

    Only differences of scores matter, so a reward model learns its scores up to a number per prompt. Finite scores
    minimise the sum over many comparisons only where every item, directly or through others, has beaten every other.

    Reads the two valid ``scores`` of each row, the better one first ``[*b,k]``; a row with fewer than two has weight 0,
    one with more is refused. A tie in ``ranks`` is not known to this model: the order counts.

    Source: Bradley & Terry 1952; Ouyang et al. 2022, eq. 1 for K = 2; Rafailov et al. 2023, eq. 2.
    """

    name = "bradley_terry"
    reference = "Bradley & Terry 1952"
    stacked = True
    max_candidates = 2

    def __call__(self, batch: Scores) -> Loss:
        pair = pair_of(batch)
        return pair_loss(-logsigmoid(pair.difference), pair)

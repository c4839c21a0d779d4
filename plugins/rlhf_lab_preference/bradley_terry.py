"""Losses on pairs of responses whose difference of scores is a log-odds: the Bradley-Terry model and its relatives."""

from __future__ import annotations

from pydantic import Field
from torch.nn.functional import logsigmoid

from rlhf_lab.components import RewardObjective
from rlhf_lab.types import BatchError, Loss, Scores
from rlhf_lab_preference.candidates import pair_loss, pair_of

__all__ = ["BradleyTerry", "BradleyTerryCentred", "BradleyTerryMargin", "SoftBradleyTerry"]


class BradleyTerry(RewardObjective):
    """The negative log-likelihood of a comparison whose log-odds are the difference of two scores.

    ``L = −log σ(r_w − r_l)``,  ``P(w beats l) = e^{r_w} / (e^{r_w} + e^{r_l})``

    Only differences of scores matter, so a reward model learns its scores up to a number per prompt. Finite scores
    minimise the sum over many comparisons only where every item, directly or through others, has beaten every other.

    Reads the two valid ``scores`` of each row, the better one first ``[*b,k]``; a row with fewer than two has weight 0,
    one with more is refused. The model knows no ties: the order counts.

    Source: Bradley & Terry 1952; Ouyang et al. 2022, eq. 1 for K = 2; Rafailov et al. 2023, eq. 2.
    """

    name = "bradley_terry"
    reference = "Bradley & Terry 1952"
    claims = frozenset(
        {
            "best-then-the-rest",
            "convex-in-scores",
            "counts-give-log-odds",
            "depends-on-differences-only",
            "gradient-bounded-by-one",
            "gradient-of-its-value",
            "hopeless-last-drops-out",
            "log-odds-are-differences",
            "log-two-at-equal-scores",
            "non-negative",
            "orders-alike-at-equal-scores",
            "orders-sum-to-one",
            "pairs-are-bradley-terry",
            "raises-best-lowers-worst",
            "sorted-is-likeliest",
            "top-one-is-softmax",
        }
    )
    implements = "bradley_terry"
    stacked = True
    max_candidates = 2

    def __call__(self, batch: Scores) -> Loss:
        pair = pair_of(batch)
        return pair_loss(-logsigmoid(pair.difference), pair)


class BradleyTerryMargin(RewardObjective):
    """Bradley-Terry with a margin that the better score must exceed the worse one by, larger for clearer ratings.

    ``L = −log σ(r_w − r_l − m)``

    The same as handing the worse response m points. It is no likelihood of both outcomes, as the margin is told of the
    better response only; at m = 0 it is ``bradley_terry``.

    Reads the two valid ``scores`` of each row, the better one first ``[*b,k]``, and ``margins [*b]`` in units of score.

    Source: Touvron et al. 2023 (Llama 2), eq. 2.
    """

    name = "bradley_terry_margin"
    reference = "Touvron et al. 2023 (Llama 2), eq. 2"
    requires = frozenset({"margins"})
    claims = frozenset(
        {
            "convex-in-scores",
            "depends-on-differences-only",
            "gradient-bounded-by-one",
            "gradient-of-its-value",
            "margin-is-a-handicap",
            "non-negative",
            "raises-best-lowers-worst",
            "sorted-is-likeliest",
            "zero-margin-is-bradley-terry",
        }
    )
    implements = "bradley_terry_margin"
    stacked = True
    max_candidates = 2

    def __call__(self, batch: Scores) -> Loss:
        if batch.margins is None:
            raise BatchError("Scores.margins: this loss holds the better score above the worse by a margin, found None")
        pair = pair_of(batch)
        return pair_loss(-logsigmoid(pair.difference - batch.margins.detach()), pair)


class BradleyTerryCentred(RewardObjective):
    """Bradley-Terry with a small pull of both scores towards opposite numbers, so that scores have a level.

    ``L = −log σ(r_w − r_l) + coef (r_w + r_l)²``

    Adding a number to both scores changes the second term only, so with one pair per prompt the optimal difference is
    that of ``bradley_terry`` and r_w = −r_l. Where three or more responses are compared with each other, the sums of
    all pairs cannot be 0 at once, and the pull shrinks differences too.

    Reads the two valid ``scores`` of each row, the better one first ``[*b,k]``.

    Source: Eisenstein et al. 2023 (Helping or herding?).
    """

    name = "bradley_terry_centred"
    reference = "Eisenstein et al. 2023"
    claims = frozenset(
        {
            "convex-in-scores",
            "counts-give-log-odds",
            "gradient-of-its-value",
            "log-odds-are-differences",
            "non-negative",
            "opposite-scores-are-bradley-terry",
            "penalty-is-squared-sum",
            "sorted-is-likeliest",
        }
    )
    implements = "bradley_terry_centred"
    stacked = True
    max_candidates = 2
    coef: float = Field(default=0.01, ge=0, description="how dear it is that the scores of a pair are not opposite")

    def __call__(self, batch: Scores) -> Loss:
        pair = pair_of(batch)
        return pair_loss(self.coef * (pair.better + pair.worse).square() - logsigmoid(pair.difference), pair)


class SoftBradleyTerry(RewardObjective):
    """The cross-entropy of Bradley-Terry with a label that is a probability: the share of raters, or a noisy label.

    ``L = −p log σ(r_1 − r_2) − (1 − p) log σ(r_2 − r_1)``

    p is the probability that the first response is better, so the order has no meaning without it. The optimum is
    ``r_1 − r_2 = log(p / (1 − p))``, finite for 0 < p < 1; p = 1 − e for all pairs allows for labels that are wrong at
    a rate e.

    Reads the two valid ``scores`` of each row ``[*b,k]`` and ``preference_prob [*b]``, from 0 to 1. The metrics
    ``margin`` and ``accuracy`` are those of the first response.

    Source: Christiano et al. 2017, section 2.2.3.
    """

    name = "soft_bradley_terry"
    reference = "Christiano et al. 2017, section 2.2.3"
    requires = frozenset({"preference_prob"})
    claims = frozenset(
        {
            "certain-label-is-bradley-terry",
            "convex-in-scores",
            "depends-on-differences-only",
            "gradient-bounded-by-one",
            "gradient-of-its-value",
            "linear-in-the-label",
            "log-two-at-equal-scores",
            "logit-of-the-label-minimises",
            "non-negative",
            "order-has-no-meaning",
        }
    )
    implements = "soft_bradley_terry"
    stacked = True
    max_candidates = 2

    def __call__(self, batch: Scores) -> Loss:
        if batch.preference_prob is None:
            raise BatchError("Scores.preference_prob: this loss is labelled by a probability, found None")
        pair, chance = pair_of(batch), batch.preference_prob.detach()
        apart = pair.difference
        return pair_loss(-chance * logsigmoid(apart) - (1 - chance) * logsigmoid(-apart), pair)

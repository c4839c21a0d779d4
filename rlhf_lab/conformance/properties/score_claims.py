"""What a reward-model loss may claim of how it depends on scores, and of pairs.

Throughout s are the scores of a row's candidates, best first (r_w and r_l of a pair), L is the row's loss and g its
gradient dL/ds.
"""

from __future__ import annotations

import math
from typing import Final

import torch

from rlhf_lab.conformance.inputs import map_fields
from rlhf_lab.conformance.properties.losses import gradient_of_its_value
from rlhf_lab.conformance.properties.score_answers import (
    any_order,
    bradley_terry,
    claim,
    difference,
    pairs,
    with_scores,
    without_ties,
)
from rlhf_lab.conformance.property import Property, expect_equal
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Scores

__all__ = ["CLAIMS"]

_SYMBOLS: Final = ("L", "dL/dscores")
_COUNTS: Final = ((3, 1), (1, 4), (2, 2))  # how often one response beat the other, and was beaten


def _differences_only(subject: Subject, case: Scores) -> None:
    shift = 2.5 - 1.5 * torch.arange(len(case.scores)).to(case.scores)  # another one for each prompt
    moved = subject(with_scores(case, case.scores + shift[:, None]))
    before = {symbol: subject(case)[symbol] for symbol in _SYMBOLS}
    expect_equal(moved, before, case.valid, note="as before each row's scores rose by a number of their own")


def _non_negative(subject: Subject, case: Scores) -> None:
    answer = subject(case)
    expect_equal(answer, {"L": answer["L"].clamp(min=0)}, case.valid, note="or more")


def _convex(subject: Subject, case: Scores) -> None:
    other = case.scores.flip(0) - 0.75 * case.scores.flip(-1)
    ends = [subject(with_scores(case, x))["L"] for x in (case.scores, other)]
    middle = subject(with_scores(case, (case.scores + other) / 2))["L"]
    note = f"at most, half way to the scores {other.tolist()}"
    expect_equal({"L": middle}, {"L": torch.minimum(middle, (ends[0] + ends[1]) / 2)}, case.valid, note=note)


def _bounded(subject: Subject, case: Scores) -> None:
    slope = subject(case)["dL/dscores"]
    expect_equal({"dL/dscores": slope}, {"dL/dscores": slope.clamp(-1, 1)}, case.valid, note="at most")


def _raises_best(subject: Subject, case: Scores) -> None:
    slope = subject(case)["dL/dscores"]
    ends = {"g[best]": slope[:, 0], "g[worst]": slope[:, -1]}
    due = {"g[best]": slope[:, 0].clamp(max=0), "g[worst]": slope[:, -1].clamp(min=0)}
    expect_equal(ends, due, note="or of the other sign: descent raises the best candidate and lowers the worst")


def _log_two(subject: Subject, case: Scores) -> None:
    level = with_scores(case, case.scores[:, :1].expand_as(case.scores))
    due = torch.full_like(case.scores[:, 0], math.log(2))
    expect_equal(subject(level), {"L": due}, note="= log 2 at equal scores")


def _log_odds(subject: Subject, case: Scores) -> None:
    won = without_ties(case)
    lost = subject(with_scores(won, case.scores.flip(-1)))["L"]
    apart = {"L' − L": lost - subject(won)["L"]}
    expect_equal(apart, {"L' − L": difference(case)}, note="= r_w − r_l, with L' for the other outcome")


def _is_bradley_terry(subject: Subject, case: Scores) -> None:
    expect_equal(subject(without_ties(case)), bradley_terry(difference(case)), note="by bradley_terry")


def _counts_minimise(subject: Subject, case: Scores) -> None:
    """Put the pair at the log-odds of the counts, around 0 so that a penalty on the level has nothing to say."""
    for won, lost in _COUNTS:
        half = 0.5 * math.log(won / lost)
        first = torch.tensor([half, -half], dtype=torch.float64).expand_as(case.scores)
        one, other = (subject(with_scores(case, x))["dL/dscores"] for x in (first, first.flip(-1)))
        pull = {"Σ dL/ds": won * one + lost * other.flip(-1)}
        note = f"where one response beat the other {won} times, lost {lost} times and is log({won}/{lost}) better"
        expect_equal(pull, {"Σ dL/ds": torch.zeros_like(one)}, note=note)


def _other_order(subject: Subject, case: Scores) -> None:
    k = case.scores.shape[-1]
    for order in ([*range(k)][::-1], [*range(1, k), 0]):
        moved = any_order(case, order)
        if case.preference_prob is not None and order[0] > order[1]:  # of a pair: the probability of the other outcome
            moved = map_fields(moved, lambda name, _, x: 1 - x if name == "preference_prob" else x)
        due = {"L": subject(case)["L"], "dL/dscores": subject(case)["dL/dscores"][:, order]}
        expect_equal(subject(moved), due, note=f"as before, for candidates in the order {order}, each with its label")


_BRADLEY_TERRY: Final = "Bradley & Terry 1952"

CLAIMS: list[Property] = [
    gradient_of_its_value("reward_model", "scores"),
    claim(
        "depends-on-differences-only",
        "adding a number to all scores of a prompt changes neither L nor g",
        "Rafailov et al. 2023, definition 1",
        _differences_only,
        cases=None,
    ),
    claim("non-negative", "L ≥ 0", _BRADLEY_TERRY, _non_negative, cases=None),
    claim(
        "convex-in-scores",
        "L half way between two score vectors is at most the mean of theirs: no minimum but the global one",
        "Boyd & Vandenberghe 2004, section 7.1",
        _convex,
    ),
    claim("gradient-bounded-by-one", "|g| ≤ 1 for every candidate", _BRADLEY_TERRY, _bounded, cases=None),
    claim(
        "raises-best-lowers-worst",
        "g ≤ 0 for the best candidate and g ≥ 0 for the worst, whatever the scores",
        "Rafailov et al. 2023, section 4",
        _raises_best,
    ),
    claim(
        "log-two-at-equal-scores",
        "L = log 2 for a pair of equal scores: nobody knows yet",
        _BRADLEY_TERRY,
        _log_two,
        cases=pairs,
    ),
    claim(
        "log-odds-are-differences",
        "of a pair, the loss of the other outcome is larger by r_w − r_l: the log-odds of the model",
        _BRADLEY_TERRY,
        _log_odds,
        cases=pairs,
    ),
    claim(
        "pairs-are-bradley-terry",
        "for two candidates L = −log σ(r_w − r_l), and so of the gradient",
        "Rafailov et al. 2023, appendix A.3",
        _is_bradley_terry,
        cases=pairs,
    ),
    claim(
        "counts-give-log-odds",
        "over n wins and m losses of a pair the pulls cancel at r_w − r_l = log(n/m), the maximum of the likelihood",
        "Ford 1957",
        _counts_minimise,
        cases=pairs,
        share=0.1,
    ),
    claim(
        "order-has-no-meaning",
        "candidates in another order, each with its label, get the same L and their own gradients",
        "contract of rlhf_lab",
        _other_order,
    ),
]

"""What a reward-model loss may claim of whole rankings: exact sums over every order of the candidates."""

from __future__ import annotations

import math
from typing import Final

import torch

from rlhf_lab.conformance.inputs import map_fields, take_steps
from rlhf_lab.conformance.properties.score_answers import claim, every_order, with_scores, without_ties
from rlhf_lab.conformance.property import Property, expect_equal
from rlhf_lab.conformance.score_cases import EXTREME
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Scores

__all__ = ["CLAIMS"]


def _orders_sum_to_one(subject: Subject, case: Scores) -> None:
    losses, _ = every_order(subject, case)
    total = (-losses).exp().sum(-1)
    expect_equal({"Σ exp(−L)": total}, {"Σ exp(−L)": torch.ones_like(total)}, note="over every order")


def _top_one(subject: Subject, case: Scores) -> None:
    losses, orders = every_order(subject, case)
    chances = (-losses).exp()
    first = [chances[:, orders[:, 0] == candidate].sum(-1) for candidate in range(case.scores.shape[-1])]
    found = {"P(first)": torch.stack(first, dim=-1)}
    expect_equal(found, {"P(first)": case.scores.softmax(-1)}, note="= the softmax of the scores")


def _bests_sum_to_one(subject: Subject, case: Scores) -> None:
    k = case.scores.shape[-1]
    losses = [subject(with_scores(case, case.scores.roll(-best, -1)))["L"] for best in range(k)]
    total = torch.stack(losses).neg().exp().sum(0)
    expect_equal({"Σ exp(−L)": total}, {"Σ exp(−L)": torch.ones_like(total)}, note="over who is best")


def _others_do_not_matter(subject: Subject, case: Scores) -> None:
    order = [0, *range(1, case.scores.shape[-1])[::-1]]
    answer = subject(case)
    due = {"L": answer["L"], "dL/dscores": answer["dL/dscores"][:, order]}
    moved = subject(with_scores(case, case.scores[:, order]))
    expect_equal(moved, due, note="as before, for all but the best in another order")


def _sorted_is_likeliest(subject: Subject, case: Scores) -> None:
    losses, _ = every_order(subject, without_ties(case))
    best = subject(with_scores(without_ties(case), case.scores.sort(-1, descending=True).values))["L"]
    note = "at most, for the order of the scores: that of another order"
    expect_equal({"L": best}, {"L": torch.minimum(best, losses.amin(-1))}, note=note)


def _orders_alike(subject: Subject, case: Scores) -> None:
    k = case.scores.shape[-1]
    level = with_scores(case, case.scores[:, :1].expand_as(case.scores))
    due = torch.full_like(case.scores[:, 0], math.log(math.factorial(k)))
    expect_equal(subject(level), {"L": due}, note=f"= log {k}! at equal scores")


def _chain(subject: Subject, case: Scores) -> None:
    k = case.scores.shape[-1]
    rest = subject(take_steps(case, [*range(1, k)]))["L"]  # of one candidate alone: whatever it says has no weight
    due = case.scores.logsumexp(-1) - case.scores[:, 0] + (rest if k > 2 else 0)
    expect_equal(subject(case), {"L": due}, note="= −log softmax of the best + L of the others")


def _hopeless(subject: Subject, case: Scores) -> None:
    k = case.scores.shape[-1]
    far = torch.cat([case.scores[:, :-1], torch.full_like(case.scores[:, :1], -EXTREME)], dim=-1)
    last = torch.arange(k) == k - 1
    without = map_fields(case, lambda name, _, x: (~last).expand_as(x).contiguous() if name == "valid" else x)
    due = subject(without)["L"] if k > 2 else torch.zeros_like(case.scores[:, 0])
    expect_equal(subject(with_scores(case, far)), {"L": due}, note="as without the last, far behind the others")


def _mean_of_pairs(subject: Subject, case: Scores) -> None:
    k = case.scores.shape[-1]
    index = [(i, j) for i in range(k) for j in range(i + 1, k)]
    slope, losses = torch.zeros_like(case.scores), torch.zeros_like(case.scores[:, 0])
    for i, j in index:
        pair = subject(take_steps(case, [i, j]))
        losses = losses + pair["L"] / len(index)
        slope[:, [i, j]] += pair["dL/dscores"] / len(index)
    expect_equal(subject(case), {"L": losses, "dL/dscores": slope}, note=f"= the mean over {len(index)} pairs")


_LUCE: Final = "Luce 1959; Plackett 1975"
_LISTNET: Final = "Cao et al. 2007 (ListNet)"

CLAIMS: list[Property] = [
    claim(
        "orders-sum-to-one",
        "exp(−L) sums to 1 over every order of the candidates (both outcomes of a pair): L is a log-likelihood",
        _LUCE,
        _orders_sum_to_one,
    ),
    claim(
        "top-one-is-softmax",
        "exp(−L), summed over the orders that begin with a candidate, is the softmax of the scores",
        "Luce 1959",
        _top_one,
    ),
    claim("bests-sum-to-one", "exp(−L) sums to 1 over who is best", _LISTNET, _bests_sum_to_one),
    claim("only-the-best-matters", "the order of all others does not matter", _LISTNET, _others_do_not_matter),
    claim(
        "sorted-is-likeliest",
        "no order has a smaller loss than that of the scores: the mode of the model",
        "Xia et al. 2008 (ListMLE)",
        _sorted_is_likeliest,
    ),
    claim("orders-alike-at-equal-scores", "L = log K! at equal scores", _LUCE, _orders_alike),
    claim(
        "best-then-the-rest",
        "L = −log softmax of the best + L of the others: a chain of choices of the best, not of the worst",
        _LUCE,
        _chain,
    ),
    claim(
        "hopeless-last-drops-out",
        "a last candidate far behind changes nothing: its place is certain, and it is nobody's rival",
        _LUCE,
        _hopeless,
    ),
    claim(
        "mean-over-pairs",
        "L and g are the means over all K (K − 1) / 2 pairs of what each gets alone",
        "Ouyang et al. 2022, eq. 1",
        _mean_of_pairs,
    ),
]

"""What a reward-model loss may claim of ties: outcomes of a pair in which neither response is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import with_fields
from rlhf_lab.conformance.properties.score_answers import (
    bradley_terry,
    claim,
    difference,
    given,
    pairs,
    with_scores,
    without_ties,
)
from rlhf_lab.conformance.property import Property, Violation, about, expect_equal
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Scores

__all__ = ["CLAIMS"]

_LIMITS: Final[Mapping[str, float]] = {"theta": 1.0, "nu": 0.0}  # at which no tie is possible


def _tied(case: Scores, scores: Tensor | None = None) -> Scores:
    tied = with_fields(case, {"ranks": torch.zeros_like(given(case, "ranks"))})
    return tied if scores is None else with_scores(tied, scores)


def _chances(subject: Subject, case: Scores) -> tuple[Tensor, Tensor, Tensor]:
    """Return the probabilities that the first of two responses wins, that it loses, and of a tie."""
    apart = without_ties(case)
    cases = (apart, with_scores(apart, case.scores.flip(-1)), _tied(case))
    win, lose, tie = ((-subject(each)["L"]).exp() for each in cases)
    return win, lose, tie


def _outcomes_sum_to_one(subject: Subject, case: Scores) -> None:
    total = torch.stack(_chances(subject, case)).sum(0)
    expect_equal({"Σ exp(−L)": total}, {"Σ exp(−L)": torch.ones_like(total)}, note="over win, loss and tie")


def _without_ties(subject: Subject, case: Scores) -> None:
    limits = {name: limit for name, limit in _LIMITS.items() if subject.has(name)}
    if not limits:
        raise Violation("no parameter theta or nu", "one, which the claim is about; `conventions` names yours")
    due = bradley_terry(difference(case))
    told = " and ".join(f"{name} = {limit:g}" for name, limit in limits.items())
    expect_equal(subject.of(**limits)(without_ties(case)), due, note=f"by bradley_terry, for {told}")


def _likeliest_level(subject: Subject, case: Scores) -> None:
    level = subject(_tied(case, case.scores.mean(-1, keepdim=True).expand_as(case.scores)))["L"]
    here = subject(_tied(case))["L"]
    expect_equal({"L": level}, {"L": torch.minimum(level, here)}, note="of a tie at equal scores, at most that here")


def _symmetric(subject: Subject, case: Scores) -> None:
    answer = subject(_tied(case))
    due = {"L": answer["L"], "dL/dscores": answer["dL/dscores"].flip(-1)}
    expect_equal(subject(_tied(case, case.scores.flip(-1))), due, note="of a tie, whichever response stands first")


def _geometric(subject: Subject, case: Scores) -> None:
    nu = subject.parameter("nu", 1.0)
    win, lose, tie = _chances(subject, case)
    expect_equal({"P(tie)": tie}, {"P(tie)": nu * (win * lose).sqrt()}, note=f"= nu √(P(win) P(loss)) for nu = {nu:g}")


def _product(subject: Subject, case: Scores) -> None:
    theta = subject.parameter("theta", 2.0)
    win, lose, tie = _chances(subject, case)
    note = f"= (theta² − 1) P(win) P(loss) for theta = {theta:g}"
    expect_equal({"P(tie)": tie}, {"P(tie)": (theta**2 - 1) * win * lose}, note=note)


def _threshold(subject: Subject, case: Scores) -> None:
    theta = torch.tensor(subject.parameter("theta", 2.0), dtype=torch.float64)
    due = bradley_terry(difference(case) - theta.log())
    expect_equal(subject(without_ties(case)), due, note=f"by bradley_terry of r_w − r_l − log theta, theta = {theta:g}")


_RAO: Final = "Rao & Kupper 1967"
_DAVIDSON: Final = "Davidson 1970"

CLAIMS: list[Property] = [
    claim(
        "win-loss-tie-sum-to-one",
        "exp(−L) sums to 1 over win, loss and tie of a pair",
        _DAVIDSON,
        _outcomes_sum_to_one,
        cases=pairs,
        applies=about("ranks"),
    ),
    claim(
        "without-ties-is-bradley-terry",
        "where theta = 1 or nu = 0 leave no room for ties, L = −log σ(r_w − r_l)",
        _RAO,
        _without_ties,
        cases=pairs,
        applies=about("ranks"),
    ),
    claim(
        "ties-likeliest-at-equal-scores",
        "a tie is likeliest between responses of equal scores",
        _DAVIDSON,
        _likeliest_level,
        cases=pairs,
        applies=about("ranks"),
    ),
    claim(
        "ties-are-symmetric",
        "a tie has one loss, whichever response stands first",
        _DAVIDSON,
        _symmetric,
        cases=pairs,
        applies=about("ranks"),
    ),
    claim(
        "tie-is-geometric-mean",
        "P(tie) = nu √(P(win) P(loss))",
        _DAVIDSON,
        _geometric,
        cases=pairs,
        applies=about("nu"),
    ),
    claim(
        "tie-is-scaled-product",
        "P(tie) = (theta² − 1) P(win) P(loss)",
        _RAO,
        _product,
        cases=pairs,
        applies=about("theta"),
    ),
    claim(
        "threshold-is-a-handicap",
        "a win has the loss of bradley_terry with r_w lower by log theta",
        _RAO,
        _threshold,
        cases=pairs,
        applies=about("theta"),
    ),
]

"""Claims of advantage estimators about rewards-to-go and what is subtracted from them."""

from __future__ import annotations

from typing import Any, Final

import torch

from rlhf_lab.conformance.inputs import segments, with_fields
from rlhf_lab.conformance.properties.advantage_cases import CRITIC, claim, gamma_of
from rlhf_lab.conformance.property import Property, expect_equal, expect_true
from rlhf_lab.conformance.subject import Subject

__all__ = ["BASELINE_CLAIMS"]


def _returns_are_sums(subject: Subject, case: Any) -> None:
    answer = subject(case)
    due = {"returns": answer["A"] + case.values}
    expect_equal(answer, due, case.valid, note="= A + V")


def _returns_obey_bellman(subject: Subject, case: Any) -> None:
    gamma, bootstrap = gamma_of(subject), bool(subject.parameter("bootstrap", False))
    answer = subject(case)
    expect_true("returns" in answer, "no returns", "rewards-to-go as returns")
    for episode in segments(case):
        row, last = episode.row, episode.steps[-1]
        for step, after in zip(episode.steps, [*episode.steps[1:], None], strict=True):
            if after is not None:
                rest = float(answer["returns"][row, after])
            else:
                rest = float(case.next_values[row, last]) if bootstrap and episode.end != "terminated" else 0.0
            due = torch.tensor(float(case.rewards[row, step]) + gamma * rest, dtype=torch.float64)
            name = f"returns[{row},{step}]"
            expect_equal({name: answer["returns"][row, step]}, {name: due}, note="= r + γ returns of the next step")


def _advantages_are_returns(subject: Subject, case: Any) -> None:
    answer = subject(case)
    expect_equal(answer, {"returns": answer["A"]}, case.valid, note="= A")


def _one_number(subject: Subject, case: Any) -> None:
    answer = subject(case)
    expect_true("returns" in answer, "no returns", "rewards-to-go as returns")
    due = torch.zeros_like(answer["A"])
    for episode in segments(case):
        due[episode.row, list(episode.steps)] = answer["returns"][episode.row, episode.steps[0]]
    expect_equal(answer, {"A": due}, case.valid, note="= returns at the episode's first step")


def _baseline_foreign(subject: Subject, case: Any) -> None:
    before = subject(case)
    expect_true("returns" in before, "no returns", "rewards-to-go as returns")
    for episode in segments(case)[:2]:
        at = (episode.row, list(episode.steps))
        rewards = case.rewards.clone()
        rewards[at] += torch.arange(1, len(episode.steps) + 1, dtype=torch.float64)
        after = subject(with_fields(case, {"rewards": rewards}))
        found, due = ({"baseline": (x["returns"] - x["A"])[at]} for x in (after, before))
        expect_equal(found, due, note="as before the episode's own rewards changed")


def _baseline_is_parameter(subject: Subject, case: Any) -> None:
    answer, due = subject(case), float(subject.parameter("baseline", 0.0))
    found = {"baseline": answer["returns"] - answer["A"]}
    expect_equal(
        found, {"baseline": torch.full_like(answer["A"], due)}, case.valid, note="= returns - A, the parameter"
    )


def _baseline_is_score(subject: Subject, case: Any) -> None:
    answer = subject(case)
    due = {"baseline": case.baseline_scores[:, None].expand_as(answer["A"])}
    expect_equal({"baseline": answer["returns"] - answer["A"]}, due, case.valid, note="= returns - A, the row's score")


def _baseline_is_value(subject: Subject, case: Any) -> None:
    answer = subject(case)
    found = {"baseline": answer["returns"] - answer["A"]}
    expect_equal(found, {"baseline": case.values}, case.valid, note="= returns - A, the critic's value")


def _baseline_averages(subject: Subject, case: Any) -> None:
    """At γ = 0 returns are rewards, so that the mean over other episodes is one of given numbers."""
    judge = subject.of(gamma=0.0)
    answer, episodes = judge(case), segments(case)
    weighted = "score_norms" in judge.component.needs()
    for own in episodes:
        steps = [(e.row, t) for e in episodes if e != own for t in e.steps]
        weights = [float(case.score_norms[at]) if weighted else 1.0 for at in steps]
        total = sum(weights)
        rewards = [float(answer["returns"][at]) for at in steps]
        mean = sum(w * r for w, r in zip(weights, rewards, strict=True)) / total if total else 0.0
        at = (own.row, own.steps[0])
        due = {"baseline": torch.tensor(mean, dtype=torch.float64)}
        note = f"over the other episodes, for row {own.row}"
        expect_equal({"baseline": answer["returns"][at] - answer["A"][at]}, due, note=note)


_SB: Final = "Sutton and Barto 2018"
_GREENSMITH: Final = "Greensmith et al. 2004"

BASELINE_CLAIMS: Final[list[Property]] = [
    claim(
        "returns-are-advantages-plus-values", "values", "returns = A + V(s)", "Schulman et al. 2017", _returns_are_sums
    ),
    claim(
        "returns-obey-bellman", "gamma", "returns[t] = r[t] + γ returns[t+1]", f"{_SB}, eq. 3.9", _returns_obey_bellman
    ),
    claim("advantages-are-returns", "gamma", "A = returns", "Williams 1992", _advantages_are_returns),
    claim(
        "one-number-per-episode",
        "gamma",
        "A is the return of the whole episode on each of its steps",
        "Williams 1992",
        _one_number,
    ),
    claim(
        "baseline-ignores-own-episode",
        "gamma",
        "returns - A does not depend on the rewards of the own episode",
        f"{_GREENSMITH}, section 3",
        _baseline_foreign,
    ),
    claim("baseline-is-its-parameter", "baseline", "returns - A = baseline", "Williams 1992", _baseline_is_parameter),
    claim(
        "baseline-is-the-rows-score",
        "baseline_scores",
        "returns - A = baseline_scores of the row",
        f"{_SB}, section 2.8",
        _baseline_is_score,
        CRITIC | {"baseline_scores"},
    ),
    claim("baseline-is-the-value", "values", "returns - A = V(s)", f"{_SB}, section 13.4", _baseline_is_value),
    claim(
        "baseline-averages-other-episodes",
        "score_norms",
        "at γ = 0, returns - A is the (score-norm-weighted) mean reward over the steps of the other episodes",
        f"{_GREENSMITH}, section 4",
        _baseline_averages,
        CRITIC | {"score_norms"},
    ),
]

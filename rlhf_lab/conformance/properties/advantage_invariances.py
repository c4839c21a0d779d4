"""Claims of advantage estimators about changes of rewards and critic that change nothing, or in proportion."""

from __future__ import annotations

from typing import Any, Final

import torch

from rlhf_lab.conformance.inputs import segments, with_fields
from rlhf_lab.conformance.properties.advantage_cases import BEHAVIOUR, claim, each, gamma_of
from rlhf_lab.conformance.property import Property, expect_equal
from rlhf_lab.conformance.subject import Subject

__all__ = ["INVARIANCE_CLAIMS"]


def _perfect_critic(subject: Subject, case: Any) -> None:
    judge = subject.of(bootstrap=True) if subject.has("bootstrap") else subject
    gamma = gamma_of(subject)
    paid = each(case, lambda future: future.values[0] - gamma * future.values[1])
    consistent = with_fields(case, {"rewards": torch.where(case.valid, paid, case.rewards)})
    note = "when every reward is V(s) - γ V(s')"
    answer = judge(consistent)
    expect_equal(answer, {"A": torch.zeros_like(paid)}, case.valid, note=note)
    if "returns" in answer:
        expect_equal(answer, {"returns": case.values}, case.valid, note=note)


def _shaping(subject: Subject, case: Any) -> None:
    judge = subject.of(bootstrap=True) if subject.has("bootstrap") else subject
    gamma, shape = gamma_of(subject), case.rewards.shape
    numbers = torch.arange(case.rewards.numel(), dtype=torch.float64).view(shape)
    here, behind = (3 * numbers % 5) / 2 - 1, (numbers % 3) / 2 + 1
    bonus, after = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for episode in segments(case):
        for step, nxt in zip(episode.steps, [*episode.steps[1:], None], strict=True):
            at = (episode.row, step)
            phi = here[episode.row, nxt] if nxt is not None else behind[at] * (episode.end != "terminated")
            after[at], bonus[at] = phi, gamma * phi - here[at]
    shaped = {
        "rewards": torch.where(case.valid, case.rewards + bonus, case.rewards),
        "values": torch.where(case.valid, case.values - here, case.values),
        "next_values": torch.where(case.valid, case.next_values - after, case.next_values),
    }
    note = "as before shaping: r + γΦ' - Φ, V - Φ"
    expect_equal(judge(with_fields(case, shaped)), {"A": judge(case)["A"]}, case.valid, note=note)


def _linear(subject: Subject, case: Any) -> None:
    """Compare f(x + 2y) with f(x) + 2 f(y); y is made number by number, so that next values stay consistent."""
    names = [n for n in ("rewards", "values", "next_values", "baseline_scores") if getattr(case, n) is not None]
    other = {name: getattr(case, name).square() / 4 - 1 for name in names}
    joint = {name: getattr(case, name) + 2 * x for name, x in other.items()}
    first, second = subject(case), subject(with_fields(case, other))
    due = {symbol: x + 2 * second[symbol] for symbol, x in first.items()}
    expect_equal(subject(with_fields(case, joint)), due, case.valid, note="= f(x) + 2 f(y) for f(x + 2y)")


def _future_only(subject: Subject, case: Any) -> None:
    """Change the first half of every episode, and look at the second."""
    before, rest = subject(case), torch.zeros_like(case.valid)
    names = ("rewards", "values", "next_values", "log_probs", "target_log_probs")
    changes = {name: getattr(case, name).clone() for name in names}
    for episode in segments(case):
        half = (len(episode.steps) + 1) // 2
        past = list(episode.steps[:half])
        rest[episode.row, list(episode.steps[half:])] = True
        for name, x in changes.items():  # a past state's value is also what its predecessor looks at
            x[episode.row, past[:-1] if name == "next_values" else past] += 3
    after = subject(with_fields(case, changes))
    expect_equal(after, before, rest, note="as before the first half of the episode changed")


_SB: Final = "Sutton and Barto 2018"

INVARIANCE_CLAIMS: Final[list[Property]] = [
    claim(
        "perfect-critic-gives-zero",
        "values",
        "where every reward is V(s) - γ V(s'), A = 0 and returns = V",
        f"{_SB}, eq. 6.5",
        _perfect_critic,
        BEHAVIOUR,
    ),
    claim(
        "shaping-invariant",
        "values",
        "r + γΦ' - Φ with V - Φ gives the same A",
        "Ng et al. 1999; Schulman et al. 2016, section 5",
        _shaping,
        BEHAVIOUR,
    ),
    claim(
        "linear-in-rewards-and-values",
        "",
        "f(x + 2y) = f(x) + 2 f(y) for rewards, values and baseline scores",
        "Schulman et al. 2016, eq. 16",
        _linear,
    ),
    claim(
        "future-only",
        "",
        "A[t] does not depend on what came before step t",
        "Sutton et al. 2000, theorem 1",
        _future_only,
        BEHAVIOUR,
    ),
]

"""Claims of advantage estimators about single episodes: limits, identities and what may not matter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.conformance.definitions.advantage import Future, futures
from rlhf_lab.conformance.inputs import segments, with_fields
from rlhf_lab.conformance.property import Check, Property, about, expect_equal, expect_true
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Trajectories

__all__ = ["CLAIMS"]

_CRITIC: Final = frozenset({"values", "next_values"})


def _each(batch: Trajectories, number: Callable[[Future], float]) -> Tensor:
    found = torch.zeros(batch.rewards.shape, dtype=torch.float64)
    for future in futures(batch):
        found[future.row, future.step] = number(future)
    return found


def _gamma(subject: Subject) -> float:
    return float(subject.parameter("gamma", 1.0))


def _whole(future: Future, gamma: float) -> float:
    """Return the discounted return, with the critic's value behind a cut."""
    paid = math.fsum(gamma**i * reward for i, reward in enumerate(future.rewards))
    return paid + gamma ** len(future.rewards) * future.values[-1]


def _returns_are_sums(subject: Subject, case: Any) -> None:
    answer = subject(case)
    due = {"returns": answer["A"] + case.values}
    expect_equal(answer, due, case.valid, note="= A + V")


def _returns_obey_bellman(subject: Subject, case: Any) -> None:
    gamma, bootstrap = _gamma(subject), bool(subject.parameter("bootstrap", False))
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


def _perfect_critic(subject: Subject, case: Any) -> None:
    judge = subject.of(bootstrap=True) if subject.has("bootstrap") else subject
    gamma = _gamma(subject)
    paid = _each(case, lambda future: future.values[0] - gamma * future.values[1])
    consistent = with_fields(case, {"rewards": torch.where(case.valid, paid, case.rewards)})
    note = "when every reward is V(s) - γ V(s')"
    answer = judge(consistent)
    expect_equal(answer, {"A": torch.zeros_like(paid)}, case.valid, note=note)
    if "returns" in answer:
        expect_equal(answer, {"returns": case.values}, case.valid, note=note)


def _lambda_one(subject: Subject, case: Any) -> None:
    due = _each(case, lambda future: _whole(future, _gamma(subject)) - future.values[0])
    expect_equal(subject.of(lam=1.0)(case), {"A": due}, case.valid, note="= G - V, at λ = 1")


def _lambda_zero(subject: Subject, case: Any) -> None:
    due = _each(case, lambda future: future.errors(_gamma(subject))[0])
    expect_equal(subject.of(lam=0.0)(case), {"A": due}, case.valid, note="= δ, at λ = 0")


def _lambda_mixes(subject: Subject, case: Any) -> None:
    gamma, lam = _gamma(subject), float(subject.parameter("lam", 1.0))

    def mixture(future: Future) -> float:
        left = len(future.rewards)
        weights = [(1 - lam) * lam ** (n - 1) for n in range(1, left)] + [lam ** (left - 1)]
        return math.fsum(weight * future.n_step(gamma, n) for n, weight in enumerate(weights, 1))

    expect_equal(
        subject(case), {"A": _each(case, mixture)}, case.valid, note="the λ-weighted mean of n-step advantages"
    )


def _one_step_error(subject: Subject, case: Any) -> None:
    due = _each(case, lambda future: future.errors(_gamma(subject))[0])
    expect_equal(subject(case), {"A": due}, case.valid, note="= r + γ V(s') - V(s)")


def _n_one(subject: Subject, case: Any) -> None:
    due = _each(case, lambda future: future.errors(_gamma(subject))[0])
    expect_equal(subject.of(n=1)(case), {"A": due}, case.valid, note="= δ, at n = 1")


def _n_large(subject: Subject, case: Any) -> None:
    due = _each(case, lambda future: _whole(future, _gamma(subject)) - future.values[0])
    expect_equal(subject.of(n=64)(case), {"A": due}, case.valid, note="= G - V, at n = 64")


def _telescopes(subject: Subject, case: Any) -> None:
    gamma, n = _gamma(subject), int(subject.parameter("n", 1))

    def total(future: Future) -> float:
        return math.fsum(gamma**i * error for i, error in enumerate(future.errors(gamma)[:n]))

    expect_equal(subject(case), {"A": _each(case, total)}, case.valid, note="= Σ_{i<n} γⁱ δ")


def _shaping(subject: Subject, case: Any) -> None:
    judge = subject.of(bootstrap=True) if subject.has("bootstrap") else subject
    gamma, shape = _gamma(subject), case.rewards.shape
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


def _on_policy(subject: Subject, case: Any) -> None:
    lam, gamma = float(subject.parameter("lam", 1.0)), _gamma(subject)
    judge = subject.of(rho_bar=1.0, c_bar=1.0)

    def lambda_return(future: Future) -> float:
        errors = future.errors(gamma)
        return future.values[0] + math.fsum((gamma * lam) ** i * error for i, error in enumerate(errors))

    same = with_fields(case, {"target_log_probs": case.log_probs})
    note = "the λ-return, on policy"
    expect_equal(judge(same), {"returns": _each(case, lambda_return)}, case.valid, note=note)
    whole = _each(case, lambda future: _whole(future, gamma) - future.values[0])
    expect_equal(judge.of(lam=1.0)(same), {"A": whole}, case.valid, note="= G - V, on policy at λ = 1")


def _no_trace(subject: Subject, case: Any) -> None:
    gamma, rho_bar = _gamma(subject), float(subject.parameter("rho_bar", 1.0))
    ratio = (case.target_log_probs - case.log_probs).exp().clamp(max=rho_bar)
    error = _each(case, lambda future: future.errors(gamma)[0])
    note = "= V + ρ δ, at c_bar = 0"
    expect_equal(subject.of(c_bar=0.0)(case), {"returns": case.values + ratio * error}, case.valid, note=note)


def _capped(subject: Subject, case: Any) -> None:
    caps = [float(subject.parameter(name, 1.0)) for name in ("rho_bar", "c_bar")]
    if not all(math.isfinite(cap) for cap in caps):
        return
    above = case.target_log_probs - case.log_probs >= math.log(max(*caps, 1e-9))
    raised = with_fields(case, {"target_log_probs": case.target_log_probs + above})
    expect_equal(subject(raised), subject(case), case.valid, note="as before ratios above both caps grew")


def _claim(
    id_: str, applies: str, statement: str, reference: str, check: Check, reads: frozenset[str] = _CRITIC
) -> Property:
    """Return a claim that is worth asking of components with these parameters or required fields."""
    return Property(id_, "advantage", statement, reference, True, check, applies=about(*applies.split()), reads=reads)


_BEHAVIOUR: Final = _CRITIC | {"log_probs", "target_log_probs"}
_GAE: Final = "Schulman et al. 2016, eq. 16 to 18"
_VTRACE: Final = "Espeholt et al. 2018, remark 1 and eq. 1"
_SB: Final = "Sutton and Barto 2018"
_GREENSMITH: Final = "Greensmith et al. 2004"

CLAIMS: Final[list[Property]] = [
    _claim(
        "returns-are-advantages-plus-values", "values", "returns = A + V(s)", "Schulman et al. 2017", _returns_are_sums
    ),
    _claim(
        "returns-obey-bellman", "gamma", "returns[t] = r[t] + γ returns[t+1]", f"{_SB}, eq. 3.9", _returns_obey_bellman
    ),
    _claim("advantages-are-returns", "gamma", "A = returns", "Williams 1992", _advantages_are_returns),
    _claim(
        "one-number-per-episode",
        "gamma",
        "A is the return of the whole episode on each of its steps",
        "Williams 1992",
        _one_number,
    ),
    _claim(
        "perfect-critic-gives-zero",
        "values",
        "where every reward is V(s) - γ V(s'), A = 0 and returns = V",
        f"{_SB}, eq. 6.5",
        _perfect_critic,
        _BEHAVIOUR,
    ),
    _claim(
        "lambda-one-is-monte-carlo",
        "lam",
        "at λ = 1, A = G - V, with γᴺ V(s_N) in G where the episode was cut",
        _GAE,
        _lambda_one,
    ),
    _claim("lambda-zero-is-td", "lam", "at λ = 0, A = δ", _GAE, _lambda_zero),
    _claim("lambda-mixes-n-step", "lam", "A = (1-λ) Σ_{n<N} λ^{n-1} A(n) + λ^{N-1} A(N)", _GAE, _lambda_mixes),
    _claim("one-step-error", "next_values", "A = r + γ V(s') - V(s)", f"{_SB}, eq. 6.5", _one_step_error),
    _claim("n-one-is-td", "n", "at n = 1, A = δ", f"{_SB}, eq. 7.1", _n_one),
    _claim("n-large-is-monte-carlo", "n", "for n beyond the episode, A = G - V", f"{_SB}, section 7.1", _n_large),
    _claim("n-step-telescopes", "n", "A = Σ_{i<n} γⁱ δ[t+i]", "Schulman et al. 2016, eq. 11 to 14", _telescopes),
    _claim(
        "shaping-invariant",
        "values",
        "r + γΦ' - Φ with V - Φ gives the same A",
        "Ng et al. 1999; Schulman et al. 2016, section 5",
        _shaping,
        _BEHAVIOUR,
    ),
    _claim(
        "linear-in-rewards-and-values",
        "",
        "f(x + 2y) = f(x) + 2 f(y) for rewards, values and baseline scores",
        "Schulman et al. 2016, eq. 16",
        _linear,
    ),
    _claim(
        "future-only",
        "",
        "A[t] does not depend on what came before step t",
        "Sutton et al. 2000, theorem 1",
        _future_only,
        _BEHAVIOUR,
    ),
    _claim(
        "baseline-ignores-own-episode",
        "gamma",
        "returns - A does not depend on the rewards of the own episode",
        f"{_GREENSMITH}, section 3",
        _baseline_foreign,
    ),
    _claim("baseline-is-its-parameter", "baseline", "returns - A = baseline", "Williams 1992", _baseline_is_parameter),
    _claim(
        "baseline-is-the-rows-score",
        "baseline_scores",
        "returns - A = baseline_scores of the row",
        f"{_SB}, section 2.8",
        _baseline_is_score,
        _CRITIC | {"baseline_scores"},
    ),
    _claim("baseline-is-the-value", "values", "returns - A = V(s)", f"{_SB}, section 13.4", _baseline_is_value),
    _claim(
        "baseline-averages-other-episodes",
        "score_norms",
        "at γ = 0, returns - A is the (score-norm-weighted) mean reward over the steps of the other episodes",
        f"{_GREENSMITH}, section 4",
        _baseline_averages,
        _CRITIC | {"score_norms"},
    ),
    _claim(
        "on-policy-is-the-lambda-return",
        "rho_bar",
        "with π = μ and bars of 1, returns = λ-return, and A = G - V at λ = 1",
        _VTRACE,
        _on_policy,
        _BEHAVIOUR,
    ),
    _claim("no-trace-is-one-step", "c_bar", "at c̄ = 0, returns = V + min(ρ̄, π/μ) δ", _VTRACE, _no_trace, _BEHAVIOUR),
    _claim("ratios-are-capped", "rho_bar", "ratios above both caps count as the caps", _VTRACE, _capped, _BEHAVIOUR),
]

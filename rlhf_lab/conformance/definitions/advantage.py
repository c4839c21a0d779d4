"""Definitions of record of role advantage: plain sums over the future of each step (see ``futures``)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.conformance.definitions.definition import Definition
from rlhf_lab.conformance.definitions.futures import Future, futures
from rlhf_lab.conformance.inputs import segments
from rlhf_lab.types import Trajectories

__all__ = ["DEFINITIONS"]


def _fill(batch: Trajectories, numbers: Mapping[str, Callable[[Future], float]]) -> Mapping[str, Tensor]:
    """Return a tensor per symbol, with a number at every valid step and 0 elsewhere."""
    found = {symbol: torch.zeros(batch.rewards.shape, dtype=torch.float64) for symbol in numbers}
    for future in futures(batch):
        for symbol, number in numbers.items():
            found[symbol][future.row, future.step] = number(future)
    return found


def _with_critic(advantage: Callable[..., float]) -> Callable[..., Mapping[str, Tensor]]:
    """Return an answer whose value target is the advantage plus the critic's value."""

    def answer(batch: Trajectories, **parameters: Any) -> Mapping[str, Tensor]:
        return _fill(
            batch,
            {
                "A": lambda future: advantage(future, **parameters),
                "returns": lambda future: advantage(future, **parameters) + future.values[0],
            },
        )

    return answer


def _mixture(future: Future, gamma: float, lam: float) -> float:
    """Return (1-λ) Σ_{n<N} λ^{n-1} A(n) + λ^{N-1} A(N), with N steps left."""
    left = len(future.rewards)
    shorter = [(1 - lam) * lam ** (n - 1) * future.n_step(gamma, n) for n in range(1, left)]
    return math.fsum(shorter) + lam ** (left - 1) * future.n_step(gamma, left)


def _to_go(future: Future, gamma: float, bootstrap: bool) -> float:
    paid = math.fsum(gamma**i * reward for i, reward in enumerate(future.rewards))
    return paid + (gamma ** len(future.rewards) * future.values[-1] if bootstrap and future.cut else 0.0)


def _monte_carlo(batch: Trajectories, gamma: float, bootstrap: bool) -> Mapping[str, Tensor]:
    return _fill(batch, dict.fromkeys(("A", "returns"), lambda f: _to_go(f, gamma, bootstrap)))


def _total_return(batch: Trajectories, gamma: float, bootstrap: bool) -> Mapping[str, Tensor]:
    found = dict(_monte_carlo(batch, gamma, bootstrap))
    found["A"] = torch.zeros_like(found["A"])
    for episode in segments(batch):
        found["A"][episode.row, list(episode.steps)] = found["returns"][episode.row, episode.steps[0]]
    return found


def _minus(baseline: Callable[..., Tensor]) -> Callable[..., Mapping[str, Tensor]]:
    """Return an answer that is the reward-to-go minus a baseline, with the reward-to-go as value target."""

    def answer(batch: Trajectories, gamma: float, bootstrap: bool, **parameters: Any) -> Mapping[str, Tensor]:
        to_go = _monte_carlo(batch, gamma, bootstrap)["returns"]
        away = baseline(batch, to_go, **parameters)
        return {"A": torch.where(batch.valid, to_go - away, 0.0), "returns": to_go}

    return answer


def _mean_of_others(batch: Trajectories, to_go: Tensor, weighted: bool) -> Tensor:
    episodes = segments(batch)
    found = torch.zeros_like(to_go)
    for own in episodes:
        others = [(e.row, t) for e in episodes if e is not own for t in e.steps]
        weights = [float(batch.score_norms[at]) if weighted else 1.0 for at in others]  # type: ignore[index]
        total = math.fsum(weights)
        mean = math.fsum(w * float(to_go[at]) for w, at in zip(weights, others, strict=True)) / total if total else 0.0
        found[own.row, list(own.steps)] = mean
    return found


def _v_trace(batch: Trajectories, gamma: float, lam: float, rho_bar: float, c_bar: float) -> Mapping[str, Tensor]:
    assert batch.log_probs is not None and batch.target_log_probs is not None
    log_ratio = (batch.target_log_probs - batch.log_probs).tolist()

    def target(future: Future) -> float:
        """Return v = V + Σ_k γᵏ (Π_{i<k} cᵢ) ρₖ δₖ of the first state of a future."""
        ratios = [math.exp(log_ratio[future.row][t]) for t in future.steps]
        traces = [math.prod(lam * min(c_bar, ratio) for ratio in ratios[:k]) for k in range(len(ratios))]
        terms = zip(traces, ratios, future.errors(gamma), strict=True)
        errors = (gamma**k * c * min(rho_bar, ratio) * error for k, (c, ratio, error) in enumerate(terms))
        return future.values[0] + math.fsum(errors)

    def advantage(future: Future) -> float:
        behind = future.values[-1]
        if len(future.steps) > 1:
            rest = Future(
                future.row, future.steps[1], future.steps[1:], future.rewards[1:], future.cut, future.values[1:]
            )
            behind = target(rest)
        rho = min(rho_bar, math.exp(log_ratio[future.row][future.step]))
        return rho * (future.rewards[0] + gamma * behind - future.values[0])

    return _fill(batch, {"A": advantage, "returns": target})


def _groups(compare: Callable[..., float]) -> Callable[..., Mapping[str, Tensor]]:
    """Return an answer that compares each response's score with those of its group, itself included."""

    def answer(batch: Trajectories, **parameters: Any) -> Mapping[str, Tensor]:
        assert batch.group_ids is not None
        ids, counted = batch.group_ids.tolist(), batch.valid.tolist()
        scores = {
            row: math.fsum(r for r, counts in zip(batch.rewards[row].tolist(), counted[row], strict=True) if counts)
            for row in range(len(ids))
            if any(counted[row])
        }
        found = torch.zeros_like(batch.rewards)
        for row, score in scores.items():
            others = [other for at, other in scores.items() if ids[at] == ids[row] and at != row]
            found[row] = compare(score, others, **parameters)
        return {"A": torch.where(batch.valid, found, 0.0)}

    return answer


def _rloo(score: float, others: list[float]) -> float:
    return score - statistics.fmean(others) if others else 0.0


def _grpo(score: float, others: list[float], ddof: int, eps: float) -> float:
    group = [score, *others]
    if len(set(group)) == 1:
        return 0.0
    deviation = statistics.stdev(group) if ddof else statistics.pstdev(group)
    return (score - statistics.fmean(group)) / (deviation + eps)


_DISCOUNT: Final = {"gamma": 0.99}
_RETURN: Final = {"gamma": 0.99, "bootstrap": False}
_LAMBDA: Final = {"gamma": 0.99, "lam": 0.95}
_V_TRACE: Final = {"gamma": 0.99, "lam": 1.0, "rho_bar": 1.0, "c_bar": 1.0}


_CRITIC: Final = frozenset({"values", "next_values"})
_GROUP: Final = frozenset({"group_ids"})


def _record(
    name: str,
    statement: str,
    reference: str,
    parameters: Mapping[str, Any],
    answer: Callable[..., Mapping[str, Tensor]],
    reads: frozenset[str] = _CRITIC,
) -> Definition:
    return Definition("advantage", name, statement, reference, parameters, answer, reads)


DEFINITIONS: Final[list[Definition]] = [
    _record(
        "monte_carlo",
        "A = returns = G = Σ_k γᵏ r_{t+k} to the end, with `bootstrap` plus γᴺ V(s_N) where the episode was cut",
        "Sutton and Barto 2018, section 13.3",
        _RETURN,
        _monte_carlo,
    ),
    _record(
        "total_return", "A = G_0 on every step of an episode; returns = G", "Williams 1992", _RETURN, _total_return
    ),
    _record(
        "td",
        "A = r + γ V(s') - V(s)",
        "Sutton and Barto 2018, eq. 6.5",
        _DISCOUNT,
        _with_critic(lambda future, gamma: future.n_step(gamma, 1)),
    ),
    _record(
        "n_step",
        "A = Σ_{i<n} γⁱ r_{t+i} + γⁿ V(s_{t+n}) - V(s), with fewer rewards at the end of an episode",
        "Sutton and Barto 2018, eq. 7.1",
        {"gamma": 0.99, "n": 5},
        _with_critic(lambda future, gamma, n: future.n_step(gamma, n)),
    ),
    _record(
        "gae",
        "A = (1-λ) Σ_{n<N} λ^{n-1} A(n) + λ^{N-1} A(N) with the n-step advantages A(n) and N steps left",
        "Schulman et al. 2016, eq. 16",
        _LAMBDA,
        _with_critic(_mixture),
    ),
    _record(
        "td_lambda",
        "returns = the λ-return, the λ-weighted mean of n-step returns; A = returns - V",
        "Sutton and Barto 2018, eq. 12.3",
        _LAMBDA,
        _with_critic(_mixture),
    ),
    _record(
        "v_trace",
        "returns = v = V + Σ_k γᵏ (Π c) ρ δ; A = ρ (r + γ v' - V); ρ = min(ρ̄, π/μ), c = λ min(c̄, π/μ)",
        "Espeholt et al. 2018, eq. 1",
        _V_TRACE,
        _v_trace,
        _CRITIC | {"log_probs", "target_log_probs"},
    ),
    _record(
        "constant_baseline",
        "A = G - baseline; returns = G",
        "Williams 1992",
        {**_RETURN, "baseline": 0.0},
        _minus(lambda _, to_go, baseline: torch.full_like(to_go, baseline)),
    ),
    _record(
        "loo_baseline",
        "A = G - mean of G over all steps of the other episodes; returns = G",
        "Kool et al. 2019",
        _RETURN,
        _minus(lambda batch, to_go: _mean_of_others(batch, to_go, weighted=False)),
    ),
    _record(
        "optimal_baseline",
        "A = G - Σ ‖g‖² G / Σ ‖g‖² over all steps of the other episodes; returns = G",
        "Greensmith et al. 2004, section 4",
        _RETURN,
        _minus(lambda batch, to_go: _mean_of_others(batch, to_go, weighted=True)),
        _CRITIC | {"score_norms"},
    ),
    _record(
        "running_mean_baseline",
        "A = G - the row's baseline_scores; returns = G",
        "Sutton and Barto 2018, section 2.8",
        _RETURN,
        _minus(lambda batch, to_go: batch.baseline_scores[:, None].expand_as(to_go)),
        _CRITIC | {"baseline_scores"},
    ),
    _record(
        "value_baseline",
        "A = G - V(s); returns = G",
        "Sutton and Barto 2018, section 13.4",
        _RETURN,
        _minus(lambda batch, _: batch.values),
    ),
    _record(
        "rloo",
        "A = the response's score minus the mean score of the others to its prompt; one alone: 0",
        "Kool et al. 2019",
        {},
        _groups(_rloo),
        _GROUP,
    ),
    _record(
        "grpo",
        "A = (score - mean) / (std + eps) within the group; alone or constant: 0",
        "Shao et al. 2024, section 4.1.2",
        {"ddof": 1, "eps": 1e-4},
        _groups(_grpo),
        _GROUP,
    ),
    _record(
        "grpo_mean",
        "A = the response's score minus the mean score of its group",
        "Liu et al. 2025",
        {},
        _groups(lambda score, others: score - statistics.fmean([score, *others])),
        _GROUP,
    ),
]

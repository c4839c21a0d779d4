"""Claims of advantage estimators about expectations, checked by enumerating every episode of random tiny worlds.

What a component does not claim is measured and told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.components import Component, PolicyObjective
from rlhf_lab.conformance.property import Property, Violation, about, always, expect_equal, show_number
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.conformance.tiny_worlds import World, mdp_of, reference_world, tiny_worlds
from rlhf_lab.errors import LabError
from rlhf_lab.types import Advantages, Loss, PolicyBatch, Trajectories, clean
from rlhf_lab.worlds import GradientError, WorldError, estimator_error, gradient_error

__all__ = ["EXPECTATIONS", "expect_same", "expectation"]

_ROUNDING: Final = 1e-12


class _ScoreFunction(PolicyObjective):
    """-A log π, whose expected gradient is what advantages are for."""

    name = "score_function"

    def __call__(self, batch: PolicyBatch) -> Loss:
        return Loss(-batch.advantages.detach() * clean(batch.log_probs, batch.valid))


class _Judged:
    """The estimator of a subject for the enumerations of ``rlhf_lab.worlds``: guarded, its baseline scores filled."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        component = subject.component
        self.role, self.name = component.role, component.name
        self.scope, self.stacked = component.scope, component.stacked

    def needs(self) -> frozenset[str]:
        return self.subject.component.needs() - {"baseline_scores"}

    def __call__(self, batch: Trajectories) -> Advantages:
        if "baseline_scores" in self.subject.component.needs():
            batch = replace(batch, baseline_scores=torch.full(batch.rewards.shape[:-1], 0.75, dtype=torch.float64))
        component: Any = self.subject.component
        answer: object = self.subject.guard.call(component, batch)
        assert isinstance(answer, Advantages)
        return answer


def _samples(component: Component) -> int:
    return 1 if component.scope in ("step", "episode") else 2


def _told(error: Exception) -> Violation:
    return Violation(str(error), "an answer to every episode of a tiny world")


def _gradient(subject: Subject, world: World, **more: Any) -> GradientError:
    """Return the expected gradient of the score function with the subject's advantages, and the true one."""
    mdp = mdp_of(world, float(subject.parameter("gamma", 1.0)))
    component = subject.component
    critic = world["critic"] if component.needs() & {"values", "next_values"} else None
    more.setdefault("samples", _samples(component))
    horizon = len(world["critic"]) - 1
    try:
        return gradient_error(mdp, world["policy"], _Judged(subject), _ScoreFunction(), critic, horizon, **more)
    except (LabError, WorldError) as error:
        raise _told(error) from None


def _tuned(subject: Subject, horizon: int) -> Subject:
    """Return the subject at λ = 1 or n beyond the horizon, where it has such a parameter."""
    if subject.has("lam"):
        return subject.of(lam=1.0)
    return subject.of(n=horizon + 1) if subject.has("n") else subject


def expect_same(found: Tensor, due: Tensor, what: str) -> None:
    """Raise ``Violation`` unless two expectations are equal up to the rounding of a sum over many episodes."""
    expect_equal({what: found}, {what: due}, tolerance=1e-8)


def _unbiased_gradient(subject: Subject, world: World) -> None:
    found = _gradient(_tuned(subject, len(world["critic"])), world)
    expect_same(found.expected, found.true, "E[Σ A ∇log π]")


def _unbiased_discounted_gradient(subject: Subject, world: World) -> None:
    mdp = mdp_of(world, float(subject.parameter("gamma", 1.0)))
    due = mdp.policy_gradient(world["policy"]).flatten()
    expect_same(_gradient(subject, world).expected, due, "E[Σ A ∇log π]")


def _group_shrinks(subject: Subject, world: World) -> None:
    for size in (2, 3):
        found = _gradient(subject, world, samples=size)
        expect_same(found.expected, found.true * (size - 1) / size, f"E[Σ A ∇log π] with {size} responses")


def _unbiased_advantages(subject: Subject, world: World) -> None:
    gamma = float(subject.parameter("gamma", 1.0))
    mdp = mdp_of(world, gamma)
    critic = mdp.state_values(world["policy"])
    horizon = len(critic) - 1
    judge = subject.of(rho_bar=math.inf) if subject.has("rho_bar") else subject
    try:
        found = estimator_error(mdp, world["policy"], _Judged(judge), critic, horizon, _samples(subject.component))
    except (LabError, WorldError) as error:
        raise _told(error) from None
    expect_same(found.cell_bias, torch.zeros_like(found.cell_bias), "E[A|s,a] - A^π(s,a)")


def _bernoulli_gradient(subject: Subject, chance: float, size: int) -> float:
    """Return E[1/K Σ A ∇log π] for one logit, K responses that succeed with ``chance``: a binomial sum."""
    batch = [torch.arange(size) < count for count in range(1, size)]
    rewards = torch.stack(batch).double()[..., None]
    on = torch.ones_like(rewards, dtype=torch.bool)
    total = 0.0
    for count, row in enumerate(rewards, 1):
        steps = Trajectories(row, on[0], ~on[0], on[0], group_ids=torch.zeros(size, dtype=torch.int64))
        advantages = subject(steps)["A"][:, 0]
        score = torch.where(row[:, 0] > 0, 1 - chance, -chance)  # ∂ log π / ∂ logit
        weight = math.comb(size, count) * chance**count * (1 - chance) ** (size - count)
        total += weight * float((advantages * score).mean())
    return total


def _arcsin(subject: Subject, case: Mapping[str, float]) -> None:
    """With K responses the gradient is within 3/K of that of 2 arcsin √p, which is √(p(1-p)) for a logit."""
    judge = subject.of(eps=0.0) if subject.has("eps") else subject
    chance, size = case["p"], int(case["responses"])
    found, due = _bernoulli_gradient(judge, chance, size), math.sqrt(chance * (1 - chance))
    if abs(found / due - 1) > 3 / size:
        raise Violation(f"E gradient = {show_number(found)}", f"{show_number(due)} up to {3 / size:.1%}: ∇ 2 arcsin √p")


def _measure_gradient(subject: Subject) -> str:
    found = _gradient(subject, reference_world())
    if found.relative_bias < _ROUNDING:
        return "expected gradient under a wrong critic: no bias on the reference world"
    return (
        f"expected gradient under a wrong critic: relative bias {show_number(found.relative_bias)}, "
        f"cosine {show_number(found.cosine)} with the true one"
    )


def _measure_advantages(subject: Subject) -> str:
    world = reference_world()
    mdp = mdp_of(world, float(subject.parameter("gamma", 1.0)))
    critic = mdp.state_values(world["policy"])
    try:
        found = estimator_error(
            mdp, world["policy"], _Judged(subject), critic, len(critic) - 1, _samples(subject.component)
        )
    except (LabError, WorldError) as error:
        raise _told(error) from None
    bias = "none on the reference world" if found.bias < _ROUNDING else show_number(found.bias)
    return f"bias of A under the exact critic, root mean square over visits: {bias}"


def expectation(
    id_: str,
    statement: str,
    reference: str,
    check: Callable[[Subject, Any], None],
    *,
    measure: Callable[[Subject], str] | None = None,
    share: float = 0.15,
    applies: Callable[[Component], str | None] = always,
    cases: st.SearchStrategy[Any] | None = None,
) -> Property:
    """Return a claim that is checked on a few of the worlds, as each check enumerates whole worlds."""
    worlds = tiny_worlds() if cases is None else cases
    return Property(id_, "advantage", statement, reference, True, check, worlds, applies, False, measure, share)


_BERNOULLI: Final = st.sampled_from((0.5, 0.25)).map(lambda p: {"p": p, "responses": 48})


EXPECTATIONS: Final[list[Property]] = [
    expectation(
        "unbiased-gradient",
        "E[Σ A ∇log π] = Σ_t E[A^π ∇log π] for any critic and policy, at λ = 1 (n beyond the end) where it has λ (n)",
        "Sutton et al. 2000, theorem 1; Schulman et al. 2016, section 3",
        _unbiased_gradient,
        measure=_measure_gradient,
    ),
    expectation(
        "unbiased-discounted-gradient",
        "E[Σ A ∇log π] = ∇J with the weight γᵗ of later steps",
        "Williams 1992, theorem 1",
        _unbiased_discounted_gradient,
        applies=about("gamma"),
    ),
    expectation(
        "unbiased-advantages",
        "with the exact critic, E[A|s,a] = A^π(s,a)",
        "Schulman et al. 2016, eq. 9 to 15",
        _unbiased_advantages,
        measure=_measure_advantages,
    ),
    expectation(
        "group-mean-shrinks-gradient",
        "with K responses, E[gradient] = (K-1)/K of the exact one",
        "Liu et al. 2025, appendix A",
        _group_shrinks,
        applies=about("group_ids"),
        cases=tiny_worlds(2),
    ),
    expectation(
        "bernoulli-rewards-give-arcsin",
        "for rewards 0 or 1 and many responses, E[gradient] = ∇ 2 arcsin √p",
        "Thrampoulidis et al. 2025",
        _arcsin,
        share=0.02,
        applies=about("group_ids"),
        cases=_BERNOULLI,
    ),
]

"""What a study can measure along a training run: exact quantities of the policy and the critic at a recorded point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.spec import RunSpec
from rlhf_lab.study.ending_measures import ends
from rlhf_lab.study.estimator_measures import gradient_along
from rlhf_lab.study.preference_measures import likelihood, overoptimisation, regularised
from rlhf_lab.training.protocols import Actor, Learner
from rlhf_lab.worlds.greedy import best_actions
from rlhf_lab.worlds.protocol import ExactWorld, open_actions

__all__ = ["ALONG", "Along", "policy_table", "reachable"]

ALONG: Final = frozenset(
    {"learning_curve", "regret", "value_error", "optimal_action", "regularised", "likelihood", "overoptimisation"}
    | {"gradient_along", "ends"}
)


class Along:
    """Exact quantities along one run. What does not change during the run is computed once, where this is built.

    ``untrained`` makes the policy as it was before any training, that of earlier stages included. ``references`` are
    levels of the optimum, of the uniform and of the untrained policy, averaged over runs whose worlds differ. Raises
    ``LabError`` where one of ``measure`` cannot be had here; with ``needed`` False that one is left out.
    """

    def __init__(
        self,
        measure: frozenset[str],
        spec: RunSpec,
        learner: Learner,
        untrained: Callable[[], Actor],
        *,
        needed: bool = True,
    ) -> None:
        self.learner = learner
        self.measure = measure & ALONG
        self.world = learner.environment.exact() if hasattr(learner.actor, "action_log_probs") else None
        self.references: dict[str, dict[str, float]] = {}
        self._more: list[Callable[[Tensor], dict[str, Tensor]]] = []
        lacking = sorted(self.measure - {"learning_curve"}) if self.world is None else []
        if lacking and needed:
            what = "policy" if learner.environment.exact() is not None else "world whose exact values are known"
            having = "trainer learns" if what == "policy" else "environment has"
            raise LabError(f"measure: {lacking[0]} needs a {what}; this {having} none")
        if self.world is None:
            self.measure = frozenset()
            return
        optimum, uniform = self.world.optimal_return(), self.world.expected_return(self.world.uniform_policy())
        self.references["exact_return"] = {"optimum": float(optimum.mean()), "uniform": float(uniform.mean())}
        beginnings = {**_BEGINNINGS, "gradient_along": partial(gradient_along, spec)}
        for begin in (begin for name, begin in beginnings.items() if name in self.measure):
            try:
                found, references = begin(learner, self.world, policy_table(untrained(), self.world))
            except LabError:
                if needed:
                    raise
                continue
            self._more.append(found)
            self.references |= references

    def gap(self) -> Tensor | None:
        """Return ``[runs]``: how much less than the optimum the present policy returns; None where nobody asks."""
        if self.world is None or "regret" not in self.measure:
            return None
        return self.world.optimal_return() - self.world.expected_return(policy_table(self.learner.actor, self.world))

    def __call__(self) -> dict[str, Tensor]:
        """Return exact quantities of the present policy and critic, ``[runs]`` each."""
        world, actor = self.world, self.learner.actor
        if world is None:
            return {}
        policy = policy_table(actor, world)
        found: dict[str, Tensor] = {}
        if self.measure & {"learning_curve", "regret"}:
            found["exact_return"] = world.expected_return(policy)
        if "value_error" in self.measure:
            found["value_error"] = _value_error(actor, world, policy)
        if "optimal_action" in self.measure:
            optimal = best_actions(world.optimal_action_values()).to(policy)
            found["optimal_action"] = (world.start * (policy * optimal).sum(-1)).sum(-1)
        for measured in self._more:
            found |= measured(policy)
        return found


_BEGINNINGS: Final[Mapping[str, Any]] = {
    "regularised": regularised,
    "likelihood": likelihood,
    "overoptimisation": overoptimisation,
    "ends": ends,
}


def _runs(actor: Any) -> int:
    return len(next(iter(actor.parameters())))


def policy_table(actor: Any, world: ExactWorld) -> Tensor:
    """Return the policy as probabilities ``[runs, states, actions]`` in float64."""
    states = torch.arange(len(world.terminal)).expand(_runs(actor), -1)
    legal = open_actions(world)
    mask = None if legal is None else legal.expand(_runs(actor), -1, -1)
    with torch.no_grad():
        table = actor.action_log_probs(states, mask).double().exp()
    probabilities: Tensor = table / table.sum(-1, keepdim=True)
    return probabilities


def _value_error(actor: Any, world: ExactWorld, policy: Tensor) -> Tensor:
    states = torch.arange(len(world.terminal)).expand(_runs(actor), -1)
    with torch.no_grad():
        values: Tensor | None = actor.values(states)
    if values is None:
        raise LabError("measure: value_error needs a policy with a critic; set policy.critic: true")
    error = (values.double() - world.state_values(policy))[:, reachable(world)]
    return error.square().mean(-1).sqrt()


def reachable(world: ExactWorld) -> Tensor:
    """Return which states an episode can visit, bool ``[s]``, terminal ones left out."""
    return world.occupancy(world.uniform_policy(), discounted=False).reshape(-1, len(world.terminal)).amax(0) > 0

"""Policy optimisation on fresh samples: collect, estimate advantages, improve, repeat.

With one epoch and one minibatch this is REINFORCE or A2C; with several and ``ppo_clip`` it is PPO; with groups, GRPO.
The loop knows an actor and an environment by four calls only, so that bandit, chess and language model share this
file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from rlhf_lab.components import Component, Trainer
from rlhf_lab.training.protocols import Setup, Size
from rlhf_lab_trainers.online_learner import OnlineLearner

__all__ = ["Online"]


class Online(Trainer):
    """Collect with the current policy, then take ``epochs x minibatches`` optimiser steps on what was collected.

    Minimised per minibatch, each term aggregated with the same weights (PPO eq. 9 with its signs turned for a loss):

        L = L_objective + value_coef * L_value - entropy_coef * H + kl_coef * KL        (KL here with kl_in: loss)

    With ``kl_in: reward`` each step's reward becomes r - kl_coef * kl(log pi, log pi_ref) instead, without gradient.
    The reference is the policy at the start of the run. Advantages are normalised over the whole batch, not per
    minibatch.
    """

    name = "online"
    reference = "Schulman et al. 2017, algorithm 1 and eq. 9"
    uses: ClassVar[Mapping[str, bool]] = {
        "advantage": True,
        "objective": True,
        "optimizer": True,
        "aggregation": False,
        "normalizer": False,
        "value": False,
        "kl": False,
        "controller": False,
    }
    provides = frozenset(
        {"old_log_probs", "behaviour_log_probs", "old_values", "uniforms", "baseline_scores", "group_ids"}
    )

    envs: int = Field(default=1, ge=1, description="environments per seed that run side by side")
    steps: int | None = Field(default=None, ge=1, description="collect windows of so many steps per environment")
    episodes: int | None = Field(default=None, ge=1, description="collect so many whole episodes per environment")
    epochs: int = Field(default=1, ge=1, description="passes over each batch")
    minibatches: int = Field(default=1, ge=1, description="optimiser steps per pass")
    value_coef: float = Field(default=0.5, ge=0, description="weight of the value loss")
    entropy_coef: float = Field(default=0.0, ge=0, description="weight of the entropy bonus")
    kl_coef: float = Field(default=0.1, ge=0, description="weight of the KL to the reference; a controller starts here")
    kl_in: Literal["reward", "loss"] = Field(default="loss", description="where the KL to the reference enters")
    max_grad_norm: float = Field(default=0.0, ge=0, description="largest gradient norm per run; 0 = no clipping")
    group_size: int = Field(
        default=0, ge=0, description="episodes of the same task that form a group, for group estimators; 0 = none"
    )
    running_mean_baseline: bool = Field(
        default=False, description="give estimators the mean of all scores so far, the current ones included"
    )

    @model_validator(mode="after")
    def _one_size(self) -> Online:
        if self.steps is not None and self.episodes is not None:
            raise ValueError("give steps or episodes, not both")
        if self.group_size and (self.episodes is None or (self.envs * self.episodes) % self.group_size):
            raise ValueError("group_size needs whole episodes, and must divide envs * episodes")
        return self

    @property
    def size(self) -> Size:
        """How much one iteration collects; without ``steps`` and ``episodes`` one whole episode."""
        return Size(self.steps, "steps") if self.steps is not None else Size(self.episodes or 1, "episodes")

    @property
    def reuses(self) -> bool:
        """Whether a batch is learned from after the policy has moved, so that it is no longer the policy's own."""
        return self.epochs * self.minibatches > 1

    def needs(self) -> frozenset[str]:
        """Return what the loop itself reads: the entropy for its bonus."""
        return frozenset({"entropy"}) if self.entropy_coef else frozenset()

    def gives(self) -> frozenset[str]:
        """Return what the loop fills as configured."""
        options = {"baseline_scores": self.running_mean_baseline, "group_ids": bool(self.group_size)}
        return frozenset(name for name in type(self).provides if options.get(name, True))

    def problems(self, components: Mapping[str, Component]) -> list[str]:
        """Return options that nothing uses, and minibatches that would cut what must stay together."""
        given = self.model_fields_set
        found = [
            f"trainer.{option}: is set, but there is no {role}; add `{role}: NAME` or leave it out"
            for option, role in (("value_coef", "value"), ("kl_coef", "kl"), ("kl_in", "kl"))
            if option in given and role not in components
        ]
        if "controller" in components and "kl" not in components:
            found.append("controller: steers kl_coef, but there is no kl; add `kl: NAME` or leave it out")
        needs = frozenset().union(*(c.needs() for c in components.values()))
        grouped = "group_ids" in needs or any(c.scope == "group" for c in components.values())
        if self.group_size and not grouped:
            found.append("trainer.group_size: nothing here looks at groups; leave it out")
        if self.running_mean_baseline and "baseline_scores" not in needs:
            found.append("trainer.running_mean_baseline: no estimator here reads baseline_scores; leave it out")
        if self.steps is not None and self.envs * self.steps < self.minibatches:
            found.append(f"trainer.minibatches: {self.envs * self.steps} steps cannot be cut into {self.minibatches}")
        losses = ("objective", "value", "aggregation")
        whole = [c for role, c in components.items() if role in losses and c.scope == "batch"]
        if whole and self.minibatches > 1:
            found.append(f"trainer.minibatches: {whole[0].role} {whole[0].name!r} looks at the whole batch; use 1")
        return found

    def warnings(self, components: Mapping[str, Component]) -> list[str]:
        """Return pairs of KL estimator and placement whose gradient is wrong, and a critic that nothing trains."""
        found = []
        kl, advantage = components.get("kl"), components.get("advantage")
        gradient = "off-policy-loss-gradient" if self.reuses else "loss-gradient"
        if kl is not None and self.kl_in == "loss" and gradient not in kl.claims:
            found.append(f"kl {kl.name!r} in the loss: its expected gradient is not that of KL(pi || ref)")
        if kl is not None and self.kl_in == "reward" and "unbiased-value" not in kl.claims:
            found.append(f"kl {kl.name!r} in the reward: its expected value is not KL(pi || ref)")
        if advantage is not None and "values" in advantage.needs() and "value" not in components:
            found.append(
                f"advantage {advantage.name!r} reads the critic, but no value objective trains it; add `value: mse`"
            )
        return found

    def build(self, setup: Setup) -> OnlineLearner:
        """Return the loop, ready for its first iteration."""
        return OnlineLearner(self, setup)

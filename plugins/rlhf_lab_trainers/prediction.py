"""Learning the value of a fixed policy, state by state, in the order of visit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.calling import apply, restrict
from rlhf_lab.components import Component, Optimizer, Trainer
from rlhf_lab.training.episodes import EpisodeMeter
from rlhf_lab.training.protocols import Setup, Size
from rlhf_lab.training.samples import Samples
from rlhf_lab.training.step import (
    GuardedOptimizer,
    as_state,
    from_state,
    largest_output,
    make_actor,
    make_environment,
    per_run,
)
from rlhf_lab.types import Trajectories, ValueBatch

__all__ = ["Prediction", "PredictionLearner"]


class Prediction(Trainer):
    """Play one episode with the fixed policy, then move the critic once for each visited state, in order.

    The target of the visit at t is the estimator's value target R_t; one optimiser step minimises value(V(s_t), R_t).

    - ``update: step`` — online n-step learning: R_t is estimated from the ``window`` steps that follow, with the values
      as they are after all earlier updates. Each visit's update needs only later rewards and earlier updates, hence
      doing them in order at the end of the episode gives what doing each at time t + n gives.
    - ``update: episode`` — the offline form: all R_t are estimated from the values at the episode's start.
    """

    name = "prediction"
    reference = "Sutton and Barto 2018, sections 7.1 (step) and 12.1 (episode)"
    uses: ClassVar[Mapping[str, bool]] = {"advantage": True, "value": True, "optimizer": True}

    asks: ClassVar[frozenset[str]] = frozenset({"log_probs", "values", "next_values"})
    update: Literal["step", "episode"] = Field(default="step", description="estimate anew for each visit, or once")
    window: int | None = Field(
        default=None,
        ge=1,
        description="steps that a target looks ahead, for update: step; default: the advantage's own n",
    )

    def problems(self, components: Mapping[str, Component]) -> list[str]:
        """Return a window that is missing, or set where nothing reads it, and an optimiser with a memory.

        Runs wait while another's episode goes on. An optimiser with a memory would move the weights of those that wait.
        """
        found = []
        optimizer = components.get("optimizer")
        if isinstance(optimizer, Optimizer) and optimizer.remembers():
            found.append(
                f"optimizer: {optimizer.name!r} moves weights by earlier gradients, also those of a run that waits for "
                "another's longer episode; prediction needs one without memory: sgd with momentum 0"
            )
        if self.update == "episode" and self.window:
            found.append("trainer.window: update: episode looks at whole episodes; leave it out")
        advantage = components.get("advantage")
        if self.update == "step" and self.window is None and advantage is not None and not hasattr(advantage, "n"):
            found.append(f"trainer.window: advantage {advantage.name!r} has no n; say how far a target looks")
        return found

    def build(self, setup: Setup) -> PredictionLearner:
        """Return the loop, ready for its first episode."""
        return PredictionLearner(self, setup)


class PredictionLearner:
    """All seeds of one arm, one episode per iteration."""

    def __init__(self, options: Prediction, setup: Setup) -> None:
        self.components: Mapping[str, Any] = setup.components
        self.environment = make_environment(setup, 1)
        self.actor: Any = make_actor(setup, self.environment.spaces)
        self.optimizer = GuardedOptimizer(self.components["optimizer"].build(self.actor), setup.runs)
        self.window: int | None = None
        if options.update == "step":
            self.window = options.window or int(self.components["advantage"].n)
        self.meter = EpisodeMeter(setup.runs)
        self.iteration = 0

    @property
    def alive(self) -> Tensor:
        """Which runs have not diverged, ``[runs]``."""
        return self.optimizer.alive

    def rest(self, resting: Tensor) -> None:
        """Leave the weights and counters of these runs ``[runs]`` as they are from now on."""
        self.optimizer.rest(resting)
        self.meter.rest(resting)

    def step(self, progress: float | Tensor) -> dict[str, Tensor]:
        """Play one episode per run and learn from each visit in order."""
        self.optimizer.anneal(self.components["optimizer"].rate, progress)
        samples = self.environment.collect(self.actor, Size(1, "episodes"))
        batch, observations = samples.trajectories, samples.inputs["observations"]
        metrics = self.meter.add(batch)
        offline = None if self.window else self._targets(batch)
        losses = torch.zeros(len(self.alive))
        for t in range(batch.rewards.shape[-1]):
            targets = self._window_targets(samples, t) if offline is None else offline[..., t]
            valid = batch.valid[..., t : t + 1]
            values = self.actor.values(observations[:, :, t])[..., None]
            loss = apply(self.components["value"], ValueBatch(values, targets[..., None], valid, valid))
            total = per_run(loss.values.masked_fill(~valid, 0))
            self.optimizer.step(total)
            losses += total.detach()
        self.optimizer.check_weights(lambda: largest_output(self.actor, samples))
        self.iteration += 1
        metrics["value_loss"] = losses / per_run(batch.valid)
        metrics = {name: torch.where(self.alive, value, torch.nan) for name, value in metrics.items()}
        return metrics | {"steps": self.meter.steps.clone(), "episodes": self.meter.episodes.clone()}

    def _targets(self, batch: Trajectories) -> Tensor:
        estimator = self.components["advantage"]
        targets: Tensor = apply(estimator, restrict(batch, estimator)).returns
        return targets

    def _window_targets(self, samples: Samples, t: int) -> Tensor:
        """Return R_t ``[runs, 1]`` from the steps [t, t + window), with the values as they are now."""
        batch, stop = samples.trajectories, t + self.window if self.window else None
        cut = slice(t, stop)
        observations = samples.inputs["observations"][:, :, t : None if stop is None else stop + 1]
        with torch.no_grad():
            current = self.actor.values(observations.flatten(1, 2)).view(observations.shape[:3])
        values = current[..., : batch.rewards[..., cut].shape[-1]]
        stored: Any = batch.next_values
        ahead = torch.cat([current[..., 1:], stored[..., cut][..., current.shape[-1] - 1 :]], dim=-1)
        terminated, truncated, valid = (x[..., cut] for x in (batch.terminated, batch.truncated, batch.valid))
        window = Trajectories(batch.rewards[..., cut], terminated, truncated, valid, values=values, next_values=ahead)
        return self._targets(window)[..., 0]

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that the next iteration depends on."""
        return {
            **as_state("actor", self.actor.state_dict()),
            **as_state("optimizer", self.optimizer.state_dict()),
            **as_state("environment", self.environment.state_dict()),
            **as_state("meter", self.meter.state_dict()),
            "iteration": torch.tensor(self.iteration),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.actor.load_state_dict(from_state("actor", state))
        self.optimizer.load_state_dict(from_state("optimizer", state))
        self.environment.load_state_dict(from_state("environment", state))
        self.meter.load_state_dict(from_state("meter", state))
        self.iteration = int(state["iteration"])

"""The state and the iteration of the ``online`` trainer. Axes: [runs, rows, t]; runs never mix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_lab.calling import apply, call, restrict
from rlhf_lab.errors import LabError
from rlhf_lab.training.episodes import EpisodeMeter
from rlhf_lab.training.minibatches import minibatches
from rlhf_lab.training.protocols import BuiltEnvironment, Evaluation, Setup
from rlhf_lab.training.samples import Samples
from rlhf_lab.training.step import (
    GuardedOptimizer,
    Reduction,
    as_state,
    from_state,
    largest_output,
    make_actor,
    make_environment,
    mean_metrics,
    per_run,
    per_run_all,
)
from rlhf_lab.types import Loss, PolicyBatch, Trajectories, ValueBatch, clean

if TYPE_CHECKING:
    from rlhf_lab_trainers.online import Online

__all__ = ["Batch", "OnlineLearner"]


@dataclass(frozen=True)
class Batch:
    """Samples and everything the losses read beside them, each ``[runs, rows, t]``."""

    samples: Samples
    steps: Mapping[str, Tensor]


class OnlineLearner:
    """All seeds of one arm in training."""

    def __init__(self, options: Online, setup: Setup) -> None:
        self.options = options
        self.components: Mapping[str, Any] = setup.components
        self.streams = setup.streams
        self.environment = make_environment(setup, options.envs)
        if options.group_size and _starts_vary(self.environment):
            raise LabError(
                f"trainer.group_size: episodes of environment {setup.environment.name!r} may start in several states, "
                "so consecutive ones are no group of one task; use an environment that gives group_ids, or one start"
            )
        getattr(self.environment, "paid_rewards", None)  # told now: a learned reward that no stage has learned
        self.actor: Any = make_actor(setup, self.environment.spaces)
        self.optimizer = GuardedOptimizer(
            self.components["optimizer"].build(self.actor), setup.runs, options.max_grad_norm
        )
        self._needs = frozenset().union(*(c.needs() for c in setup.components.values()))
        if "kl" in setup.components or "ref_log_probs" in self._needs:
            self.actor.keep_reference()
        self.kl_coef = torch.full((setup.runs,), options.kl_coef)
        first = self.components["objective"].initial_state()
        self.loss_state = {name: x.expand(setup.runs, *x.shape).clone() for name, x in first.items()}
        self.meter = EpisodeMeter(setup.runs)
        self.iteration = 0
        self.updates = 0  # optimiser steps so far; numbers the draws of a random loss

    @property
    def alive(self) -> Tensor:
        """Which runs have not diverged, ``[runs]``."""
        return self.optimizer.alive

    def rest(self, resting: Tensor) -> None:
        """Leave the weights and counters of these runs ``[runs]`` as they are from now on."""
        self.optimizer.rest(resting)
        self.meter.rest(resting)

    def step(self, progress: float | Tensor) -> dict[str, Tensor]:
        """Collect, estimate, improve; return the iteration's metrics."""
        if isinstance(progress, Tensor) and self.options.size.unit == "steps":
            progress = float(progress[0])  # windows of one length: all runs are equally far
        self.optimizer.anneal(self.components["optimizer"].rate, progress)
        samples = self.environment.collect(self.actor, self.options.size)
        metrics = self.meter.add(samples.trajectories)
        batch, observed = self.estimate(samples)
        metrics |= observed
        metrics |= self._improve(batch)
        self.optimizer.check_weights(lambda: largest_output(self.actor, samples))
        if "controller" in self.components:
            self.kl_coef = _controlled(self.components["controller"], self.kl_coef, metrics["kl"], self.alive)
            metrics["kl_coef"] = self.kl_coef.clone()
        self.iteration += 1
        if not self.optimizer.all_alive:
            metrics = {name: torch.where(self.alive, value, torch.nan) for name, value in metrics.items()}
        return metrics | {"steps": self.meter.steps.clone(), "episodes": self.meter.episodes.clone()}

    def estimate(self, samples: Samples) -> tuple[Batch, dict[str, Tensor]]:
        """Return the batch with advantages and value targets, before any of this iteration's updates, and metrics."""
        batch, observed = self._complete(samples)
        if batch is not samples.trajectories:
            samples = replace(samples, trajectories=batch)
        estimator, normalizer = self.components["advantage"], self.components.get("normalizer")
        estimate = apply(estimator, restrict(batch, estimator))
        if normalizer is not None:
            estimate = apply(normalizer, restrict(batch, normalizer), estimate)
        if "value" in self.components and estimate.returns is None:
            raise LabError(
                f"advantage {estimator.name!r} gives no value targets (returns), which value "
                f"{self.components['value'].name!r} needs; leave `value` out, or choose another estimator"
            )
        old = batch.log_probs if batch.target_log_probs is None else batch.target_log_probs
        steps = {
            "advantages": estimate.advantages,
            "returns": estimate.returns,
            "valid": batch.valid,
            "ends": batch.terminated | batch.truncated,
            "old_log_probs": old,
            "behaviour_log_probs": batch.log_probs,
            "ref_log_probs": batch.ref_log_probs,
            "old_values": batch.values,
        }
        observed["mean_advantage"] = per_run(estimate.advantages) / per_run(batch.valid)
        return Batch(samples, {name: x for name, x in steps.items() if x is not None}), observed

    def _complete(self, samples: Samples) -> tuple[Trajectories, dict[str, Tensor]]:
        """Return the trajectories with what the loop provides, less the KL where that enters the rewards."""
        batch = samples.trajectories
        needs = self._needs
        extra: dict[str, Any] = {}
        observed: dict[str, Tensor] = {}
        runs, rows, _ = batch.rewards.shape
        if self.options.group_size and batch.group_ids is None:
            extra["group_ids"] = (torch.arange(rows) // self.options.group_size).expand(runs, rows)
        if self.options.running_mean_baseline:
            mean = self.meter.scores / self.meter.episodes.clamp(min=1)
            extra["baseline_scores"] = mean.to(batch.rewards.dtype)[:, None].expand(runs, rows)
        if "score_norms" in needs:
            extra["score_norms"] = self.actor.score_norms(samples)
        kl = self.components.get("kl")
        in_reward = kl is not None and self.options.kl_in == "reward"
        if in_reward or needs & {"target_log_probs", "ref_log_probs"}:
            with torch.no_grad():
                evaluation = self.actor.evaluate(samples)
            if "target_log_probs" in needs:
                extra["target_log_probs"] = evaluation.log_probs
            if "ref_log_probs" in needs:
                extra["ref_log_probs"] = evaluation.ref_log_probs
            if in_reward:
                penalty = _divergence(kl, evaluation, batch.valid)
                extra["rewards"] = batch.rewards - self.kl_coef.to(penalty)[:, None, None] * penalty
                observed["kl"] = per_run(penalty) / per_run(batch.valid)
        return (replace(batch, **extra) if extra else batch), observed

    def _improve(self, batch: Batch) -> dict[str, Tensor]:
        """Take ``epochs x minibatches`` optimiser steps and return their metrics, averaged.

        A stateful loss moves on once, after the last epoch and from its metrics: before, the policy has hardly moved.
        """
        epochs: list[list[dict[str, Tensor]]] = [[] for _ in range(self.options.epochs)]
        for update, (samples, steps) in enumerate(self._minibatches(batch)):
            loss, metrics = self._loss(samples, steps)
            metrics["grad_norm"] = self.optimizer.step(loss)
            if self.options.minibatches > 1:  # a run with few steps may have none in this one
                empty = ~steps["valid"].flatten(1).any(1)
                metrics = {name: x.masked_fill(empty, torch.nan) for name, x in metrics.items()}
            self.updates += 1
            epochs[update // self.options.minibatches].append(metrics)
        if self.loss_state:
            new = self.components["objective"].next_state(self.loss_state, mean_metrics(epochs[-1]))
            self.loss_state = {k: torch.where(self.alive, v, self.loss_state[k]) for k, v in new.items()}
        return mean_metrics([metrics for epoch in epochs for metrics in epoch])

    def _minibatches(self, batch: Batch) -> Iterator[tuple[Samples, Mapping[str, Tensor]]]:
        if self.options.minibatches == 1:
            for _ in range(self.options.epochs):
                yield batch.samples, batch.steps
            return
        losses = [
            self.components[role] for role in ("objective", "value", "kl", "aggregation") if role in self.components
        ]
        yield from minibatches(
            batch.samples,
            batch.steps,
            scopes={c.scope for c in losses},
            count=self.options.minibatches,
            epochs=self.options.epochs,
            streams=self.streams["minibatches"],
            first=self.iteration * self.options.epochs,
        )

    def policy_loss(self, samples: Samples, steps: Mapping[str, Tensor], evaluation: Evaluation) -> Loss:
        """Return the objective's loss of each step ``[runs, rows, t]``, before aggregation."""
        objective = self.components["objective"]
        needs = objective.needs()
        optional: dict[str, Any] = {
            name: steps[name] for name in ("old_log_probs", "behaviour_log_probs", "ref_log_probs") if name in needs
        }
        if "entropy" in needs:
            optional["entropy"] = evaluation.entropy
        if "group_ids" in needs:
            optional["group_ids"] = samples.trajectories.group_ids
        if "uniforms" in needs:
            optional["uniforms"] = self._uniforms("loss", evaluation.log_probs)
        if self.loss_state:
            optional["state"] = self.loss_state
        batch = PolicyBatch(evaluation.log_probs, steps["advantages"], steps["valid"], steps["ends"], **optional)
        loss: Loss = apply(objective, batch)
        return loss

    def _loss(self, samples: Samples, steps: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted total loss of each step ``[runs, rows, t]``, and its parts summed per run, detached."""
        evaluation = self.actor.evaluate(samples)
        reduction = Reduction(self.components["aggregation"], steps["valid"], steps["ends"])
        loss, metrics = reduction.weigh(self.policy_loss(samples, steps, evaluation))
        metrics["policy_loss"] = loss.detach()
        for name, weight, part in self._other_losses(evaluation, steps):
            weighted, observed = reduction.weigh(part)
            metrics |= {name: weighted.detach(), **observed}
            if not isinstance(weight, float) or weight:
                loss = loss + weight * weighted
        return loss, per_run_all(metrics)

    def _uniforms(self, name: str, like: Tensor) -> Tensor:
        """Return iid U(0,1) numbers ``[runs, rows, t]`` for this update of a random loss."""
        return self.streams[name].uniforms(self.updates, *like.shape[1:], dtype=like.dtype)

    def _other_losses(self, evaluation: Evaluation, steps: Mapping[str, Tensor]) -> Iterator[tuple[str, Any, Loss]]:
        """Yield name, weight and per-step loss of value, entropy and KL, as far as they take part."""
        options = self.options
        if "value" in self.components:
            value = self.components["value"]
            needs, values = value.needs(), evaluation.values
            assert values is not None  # the spec was refused otherwise
            optional: dict[str, Any] = {"old_values": steps["old_values"]} if "old_values" in needs else {}
            if "uniforms" in needs:
                optional["uniforms"] = self._uniforms("value loss", values)
            batch = ValueBatch(values, steps["returns"], steps["valid"], steps["ends"], **optional)
            yield "value_loss", options.value_coef, apply(value, batch)
        if evaluation.entropy is not None:
            entropy = evaluation.entropy.masked_fill(~steps["valid"], 0)
            yield "entropy", -options.entropy_coef, Loss(entropy, metrics={"entropy": entropy.detach()})
        if "kl" in self.components and options.kl_in == "loss":
            old_log_probs = steps["old_log_probs"] if options.reuses else None
            penalty = _divergence(self.components["kl"], evaluation, steps["valid"], old_log_probs)
            coefficient = self.kl_coef.to(penalty)[:, None, None]
            yield "kl", coefficient, Loss(penalty, metrics={"kl": penalty.detach()})

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that the next iteration depends on."""
        return {
            **as_state("actor", self.actor.state_dict()),
            **as_state("optimizer", self.optimizer.state_dict()),
            **as_state("environment", self.environment.state_dict()),
            **as_state("meter", self.meter.state_dict()),
            **as_state("loss", self.loss_state),
            "kl_coef": self.kl_coef,
            "counters": torch.tensor([self.iteration, self.updates]),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.actor.load_state_dict(from_state("actor", state))
        self.optimizer.load_state_dict(from_state("optimizer", state))
        self.environment.load_state_dict(from_state("environment", state))
        self.meter.load_state_dict(from_state("meter", state))
        self.loss_state = from_state("loss", state)
        self.kl_coef = state["kl_coef"]
        self.iteration, self.updates = state["counters"].tolist()


def _divergence(kl: Any, evaluation: Evaluation, valid: Tensor, old_log_probs: Tensor | None = None) -> Tensor:
    """Return the KL to the reference of each step, 0 where not valid, from actions or whole distributions."""
    names = ("action_log_probs", "ref_action_log_probs") if kl.distributions else ("log_probs", "ref_log_probs")
    mask = valid[..., None] if kl.distributions else valid
    if getattr(evaluation, names[0]) is None:
        raise LabError(f"kl {kl.name!r} compares whole distributions, which needs finitely many actions; use k1 to k3")
    policy, reference = (clean(getattr(evaluation, name), mask) for name in names)
    old = None if old_log_probs is None else clean(old_log_probs, valid)
    penalty: Tensor = call(kl, policy, reference, old_log_probs=old)
    return penalty


def _starts_vary(environment: BuiltEnvironment) -> bool:
    world = environment.exact()
    return world is None or int((world.start > 0).sum()) > 1


def _controlled(controller: Any, coefficient: Tensor, observed: Tensor, alive: Tensor) -> Tensor:
    """Return the next coefficient ``[runs]``; a frozen run keeps its own."""
    observed = torch.where(alive, observed, 0).to(coefficient)
    return torch.where(alive, call(controller, coefficient, observed), coefficient)

"""The frozen tensor batches that travel between a training loop and a component.

Requirements this file meets:
- a batch is checked once, where it is built (shape, dtype, device, finite where valid), so that no component checks
  again;
- nothing is ever broadcast: an ``[n, 1]`` tensor where ``[n]`` is due is refused, not stretched;
- ``*b`` are leading axes (run | env | prompt, sample), ``t`` is time and always last; masks: True = counts;
- what stands at invalid steps is nobody's business and may be NaN: clean the inputs with ``clean`` before arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from rlhf_lab.batch import Batch, BatchError, Refused, clean, optional, required, true_somewhere

__all__ = [
    "Advantages",
    "BatchError",
    "Loss",
    "PolicyBatch",
    "Rankings",
    "Refused",
    "Scores",
    "Trajectories",
    "ValueBatch",
    "Weights",
    "clean",
    "link_values",
]


@dataclass(frozen=True, eq=False)
class Trajectories(Batch):
    """What was collected: rows of steps, one or several episodes a row. Everything in it is detached.

    Boundaries: inside an episode ``next_values[t]`` is ``values`` at the next valid step (see ``link_values``); it
    carries information only at a truncation and at a live edge (a row that stops with neither flag) and is ignored
    where terminated. Termination wins where both flags are set. Steps with ``valid`` False neither receive nor pass
    nor decay credit.

    Raises ``BatchError`` on a wrong shape, dtype or device, on NaN where valid, and on a flag where not valid.
    """

    axes: ClassVar[str] = "t"

    rewards: Tensor = required("float", "same")  # [*b,t]
    terminated: Tensor = required("bool", "same")  # [*b,t] the task ended after this step
    truncated: Tensor = required("bool", "same")  # [*b,t] the episode was cut after this step
    valid: Tensor = required("bool", "same")  # [*b,t]
    values: Tensor | None = optional("float", "same")  # [*b,t] V(s_t)
    next_values: Tensor | None = optional("float", "same")  # [*b,t] V(s_{t+1}), before any reset
    log_probs: Tensor | None = optional("float", "same")  # [*b,t] of the whole action under the behaviour policy
    target_log_probs: Tensor | None = optional("float", "same")  # [*b,t] under the current policy
    ref_log_probs: Tensor | None = optional("float", "same")  # [*b,t] under the reference policy
    group_ids: Tensor | None = optional("int", "row")  # [*b] equal = same prompt, one episode per row
    baseline_scores: Tensor | None = optional("float", "row")  # [*b]
    score_norms: Tensor | None = optional("float", "same")  # [*b,t] squared norm of grad log pi

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in list(self.__dict__.items()):
            if value is not None and value.requires_grad:
                object.__setattr__(self, name, value.detach())
        if true_somewhere((self.terminated | self.truncated) > self.valid):
            raise BatchError(
                "Trajectories: terminated or truncated is True at an invalid step. "
                "Store an episode's end on its last valid step"
            )
        for name in ("rewards", "values", "log_probs", "target_log_probs", "ref_log_probs", "score_norms"):
            self._check_finite(name, self.valid)
        self._check_finite("baseline_scores", None, "everywhere")
        if not self._is_finite("next_values"):
            self._check_finite("next_values", self.valid & ~self.terminated, "where valid and not terminated")


@dataclass(frozen=True, eq=False)
class Advantages(Batch):
    """An estimator's answer: ``advantages [*b,t]``, 0 where not valid, and the value target ``returns`` or None."""

    axes: ClassVar[str] = "t"

    advantages: Tensor = required("float", "same")
    returns: Tensor | None = optional("float", "same")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_finite("advantages", None, "everywhere (0 where not valid)")


@dataclass(frozen=True, eq=False)
class PolicyBatch(Batch):
    """What a policy objective reads. Only ``log_probs`` and ``entropy`` carry gradient.

    ``old_log_probs`` are the proximal policy's: ``target_log_probs`` where given, else the behaviour's.
    """

    axes: ClassVar[str] = "t"
    finite: ClassVar[tuple[str, ...]] = ("advantages", "old_log_probs", "ref_log_probs", "behaviour_log_probs")

    log_probs: Tensor = required("float", "same")  # [*b,t] under the policy being learned
    advantages: Tensor = required("float", "same")  # [*b,t]
    valid: Tensor = required("bool", "same")  # [*b,t]
    ends: Tensor = required("bool", "same")  # [*b,t] last step of an episode
    old_log_probs: Tensor | None = optional("float", "same")
    ref_log_probs: Tensor | None = optional("float", "same")
    behaviour_log_probs: Tensor | None = optional("float", "same")
    entropy: Tensor | None = optional("float", "same")
    group_ids: Tensor | None = optional("int", "row")
    uniforms: Tensor | None = optional("float", "same")  # iid U(0,1) for a random loss
    state: Mapping[str, Tensor] | None = None  # of a stateful loss


@dataclass(frozen=True, eq=False)
class ValueBatch(Batch):
    """What a value objective reads. Only ``values`` carries gradient."""

    axes: ClassVar[str] = "t"
    finite: ClassVar[tuple[str, ...]] = ("returns", "old_values")

    values: Tensor = required("float", "same")  # [*b,t] V(s_t) of the critic being learned
    returns: Tensor = required("float", "same")  # [*b,t] the target
    valid: Tensor = required("bool", "same")
    ends: Tensor = required("bool", "same")
    old_values: Tensor | None = optional("float", "same")  # [*b,t] V(s_t) when the data was collected
    uniforms: Tensor | None = optional("float", "same")
    state: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Rankings(Batch):
    """Responses to one prompt, best first (in no order where ``desirable`` or ``targets`` is given)."""

    axes: ClassVar[str] = "k"
    finite: ClassVar[tuple[str, ...]] = ("log_probs", "ref_log_probs", "targets", "gains", "token_kl")
    finite_everywhere: ClassVar[tuple[str, ...]] = ("preference_prob", "margins", "weights")

    log_probs: Tensor = required("float", "same")  # [*b,k] summed over the response
    ref_log_probs: Tensor | None = optional("float", "same")
    lengths: Tensor | None = optional("int", "same")
    valid: Tensor | None = optional("bool", "same")  # ragged k
    desirable: Tensor | None = optional("bool", "same")
    targets: Tensor | None = optional("float", "same")
    gains: Tensor | None = optional("float", "same")
    ranks: Tensor | None = optional("int", "same")  # equal = tie
    mismatched_log_probs: Tensor | None = optional("float", "same")
    mismatched_ref_log_probs: Tensor | None = optional("float", "same")
    token_kl: Tensor | None = optional("float", "same")
    preference_prob: Tensor | None = optional("float", "row")
    margins: Tensor | None = optional("float", "row")
    weights: Tensor | None = optional("float", "row")  # how much a row counts; the loop reads it, losses do not
    token_log_probs: Tensor | None = optional("float", "token")  # [*b,k,t]
    token_ref_log_probs: Tensor | None = optional("float", "token")
    token_valid: Tensor | None = optional("bool", "token")
    uniforms: Tensor | None = optional("float", "row")
    state: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_probability(self)
        if self.lengths is not None:
            empty = self.lengths < 1
            if true_somewhere(empty if self.valid is None else empty & self.valid):
                raise BatchError("Rankings.lengths: a valid response has no token; leave it out, or mark it invalid")


@dataclass(frozen=True, eq=False)
class Scores(Batch):
    """A reward model's scores of responses to one prompt, best first, for a reward-model objective."""

    axes: ClassVar[str] = "k"
    finite: ClassVar[tuple[str, ...]] = ("scores", "targets")
    finite_everywhere: ClassVar[tuple[str, ...]] = ("preference_prob", "margins", "weights")

    scores: Tensor = required("float", "same")  # [*b,k]
    valid: Tensor | None = optional("bool", "same")
    targets: Tensor | None = optional("float", "same")
    ranks: Tensor | None = optional("int", "same")
    margins: Tensor | None = optional("float", "row")
    preference_prob: Tensor | None = optional("float", "row")
    weights: Tensor | None = optional("float", "row")  # how much a row counts; the loop reads it, losses do not
    uniforms: Tensor | None = optional("float", "row")
    state: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_probability(self)


def _check_probability(batch: Rankings | Scores) -> None:
    chance = batch.preference_prob
    if chance is not None and true_somewhere((chance < 0) | (chance > 1)):
        found = f"from {chance.min().item():g} to {chance.max().item():g}"
        raise BatchError(f"{type(batch).__name__}.preference_prob: expected numbers from 0 to 1, found {found}")


@dataclass(frozen=True, eq=False)
class Loss(Batch):
    """A loss to be minimised, before aggregation: one value per step ``[*b,t]`` or per item ``[*b]``.

    A sequence-level loss repeats its value on each step of the sequence. ``weights`` (0 = does not count) and each of
    ``metrics`` have the shape of ``values``; metrics are detached and reduced with the same weights.
    """

    axes: ClassVar[str] = ""
    trailing: ClassVar[int] = 0

    values: Tensor = required("float", "same")
    weights: Tensor | None = optional("float", "same")
    metrics: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, metric in self.metrics.items():
            if metric.shape != self.values.shape:
                raise self._error(f"metrics[{name!r}]", "the shape of values", metric)
            if metric.requires_grad:
                raise self._error(f"metrics[{name!r}]", "a detached tensor", metric)


@dataclass(frozen=True, eq=False)
class Weights(Batch):
    """An aggregation's answer, both ``[*b,t]``: the loss of a run is ``sum(weights * values) / sum(total)``.

    Both sums run over every micro-batch of one optimiser step, so that a split does not change the loss.
    """

    axes: ClassVar[str] = "t"

    weights: Tensor = required("float", "same")
    total: Tensor = required("float", "same")


def link_values(
    values: Tensor, terminated: Tensor, truncated: Tensor, valid: Tensor, next_values: Tensor | None = None
) -> Tensor:
    """Build ``next_values [*b,t]`` from ``values [*b,t]``, and check it where it was given.

    Inside an episode the answer is ``values`` at the next valid step; at a truncation and at a live edge (the last
    valid step of a row without a flag) it is what ``next_values`` says there; 0 where terminated or not valid.

    Raises ``BatchError`` where a given ``next_values`` differs inside an episode, or is missing where it is needed.
    """
    steps = values.shape[-1]
    if steps == 0:
        return values
    index = torch.arange(steps, device=values.device).expand(values.shape)
    nearest = torch.where(valid, index, steps).flip(-1).cummin(-1).values.flip(-1)  # first valid step at or after t
    following = torch.cat([nearest[..., 1:], nearest.new_full((*nearest.shape[:-1], 1), steps)], dim=-1)
    inside = valid & ~terminated & ~truncated & (following < steps)
    linked = clean(torch.gather(values, -1, following.clamp(max=steps - 1)), inside)
    outside = valid & ~terminated & ~inside
    if next_values is None:
        if bool(outside.any()):
            at = [int(i) for i in outside.nonzero()[0]]
            raise BatchError(
                f"link_values: index {at} is a truncation or live edge and needs next_values, which is None"
            )
        return linked
    if bool((clean(next_values, inside) != linked).any()):
        at = [int(i) for i in (clean(next_values, inside) != linked).nonzero()[0]]
        raise BatchError(
            f"link_values: next_values is {float(next_values[tuple(at)])} at index {at}, inside an episode, "
            f"but values at the next valid step is {float(linked[tuple(at)])}"
        )
    return torch.where(outside, next_values, linked)

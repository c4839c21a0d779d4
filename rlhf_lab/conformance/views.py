"""How the components of each role are called, and what of their answer is compared.

Losses answer with their values and with the gradient of their sum, per step; a component is called with the optional
fields that it needs and no other, as the host does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.calling import call, restrict
from rlhf_lab.components import Component
from rlhf_lab.conformance import ranking_cases, score_cases, strategies
from rlhf_lab.conformance.inputs import Estimated, LogProbs, Masks, Observed
from rlhf_lab.conformance.property import Violation, expect_true
from rlhf_lab.conformance.subject import Answer, View
from rlhf_lab.errors import LabError, did_you_mean
from rlhf_lab.types import Advantages, PolicyBatch, Rankings, Refused, Scores, Trajectories, ValueBatch, clean

__all__ = ["VIEWS", "view"]

_PER_ROW: Final = ("preference", "reward_model")  # whose losses are one number per row
# what rankings hold that moves with the policy, and what does not
_OF_POLICY: Final = ("log_probs", "token_log_probs", "mismatched_log_probs", "token_kl")
_OF_NO_POLICY: Final = (
    *("ref_log_probs", "token_ref_log_probs", "mismatched_ref_log_probs"),
    *("targets", "gains", "preference_prob", "margins", "weights"),
)


def _advantage(component: Any, inputs: Trajectories) -> Answer:
    return _estimates(call(component, restrict(inputs, component)), inputs)


def _normalizer(component: Any, inputs: Estimated) -> Answer:
    batch = Trajectories(**{f.name: getattr(inputs, f.name) for f in fields(Trajectories)})
    assert inputs.advantages is not None
    raw = inputs.advantages  # itself where it can be, so that a change in place is seen
    if bool((raw[~inputs.valid] != 0).any()):
        raw = clean(raw, inputs.valid)  # estimators return 0 where not valid
    return _estimates(call(component, restrict(batch, component), Advantages(raw, inputs.returns)), inputs)


def _estimates(answer: Advantages, inputs: Trajectories) -> Answer:
    found = {"A": answer.advantages} | ({} if answer.returns is None else {"returns": answer.returns})
    for symbol, x in found.items():
        _like(symbol, x, inputs.rewards)
        expect_true(not x.requires_grad, f"{symbol} with a gradient", "a detached tensor")
    return found


def _like(symbol: str, x: Tensor, asked: Tensor) -> None:
    due = f"{asked.dtype} on {asked.device}, as asked"
    expect_true(x.dtype == asked.dtype and x.device == asked.device, f"{symbol} in {x.dtype} on {x.device}", due)


def _objective(component: Any, inputs: PolicyBatch) -> Answer:
    live = {"log_probs": inputs.log_probs, "entropy": inputs.entropy}
    others = {name: getattr(inputs, name) for name in ("advantages", "old_log_probs", "ref_log_probs")}
    return _losses(component, inputs, live, {**others, "behaviour_log_probs": inputs.behaviour_log_probs})


def _value(component: Any, inputs: ValueBatch) -> Answer:
    return _losses(
        component, inputs, {"values": inputs.values}, {"returns": inputs.returns, "old_values": inputs.old_values}
    )


def _preference(component: Any, inputs: Rankings) -> Answer:
    most, candidates = component.most_candidates(), inputs.log_probs.shape[-1]
    if most is not None and candidates != most:
        told = f"it takes {most} candidates, found {candidates}"
        raise LabError(f"{component.name!r}: {told}") from Refused(told)
    live, fixed = ({name: getattr(inputs, name) for name in names} for names in (_OF_POLICY, _OF_NO_POLICY))
    return _losses(component, inputs, live, fixed)


def _reward_model(component: Any, inputs: Scores) -> Answer:
    labels = {name: getattr(inputs, name) for name in ("targets", "margins", "preference_prob", "weights")}
    return _losses(component, inputs, {"scores": inputs.scores}, labels)


def _losses(
    component: Any, inputs: Any, live: Mapping[str, Tensor | None], fixed: Mapping[str, Tensor | None]
) -> Answer:
    """Call a loss and differentiate its weighted sum; no gradient may reach the ``fixed`` tensors."""
    leaves = {name: x.detach().requires_grad_() for name, x in {**live, **fixed}.items() if x is not None}
    state = getattr(component, "initial_state", dict)() if inputs.state is None else inputs.state
    batch = restrict(replace(inputs, **leaves, state=state or None), component)
    loss = call(component, batch)
    first = next(x for x in live.values() if x is not None)
    _like("L", loss.values, first)
    weights = torch.ones_like(loss.values) if loss.weights is None else loss.weights.detach()
    counted = _counted(inputs.valid, loss.values)
    total = (clean(weights, counted) * clean(loss.values, counted)).sum()
    read = {name: x for name, x in leaves.items() if getattr(batch, name) is not None}
    if total.requires_grad:
        slopes = torch.autograd.grad(total, list(read.values()), allow_unused=True)
        gradients = {name: x for name, x in zip(read, slopes, strict=True) if x is not None}
    else:
        gradients = {}
    moving = [name for name, x in live.items() if x is not None]
    leaked = [name for name in fixed if name in gradients and bool((gradients[name] != 0).any())]
    if leaked:
        raise Violation(
            f"a gradient into {leaked[0]}", f"gradient into {' and '.join(moving)} only: detach what is given"
        )
    found = {"L": loss.values.detach()}
    by_token = "token_log_probs" in read and "log_probs" not in gradients  # sums are always there, read or not
    for name in moving:
        if name in read and not (by_token and name == "log_probs"):
            found[f"dL/d{name}"] = gradients.get(name, torch.zeros_like(leaves[name]))
    if loss.weights is not None:
        found["weights"] = weights
    if component.role in _PER_ROW:  # whatever number stands where a row does not count
        found |= {"weights": weights, "L": found["L"].masked_fill((weights == 0) & found["L"].isfinite(), 0)}
    return found


def _counted(valid: Tensor | None, values: Tensor) -> Tensor:
    """Return which losses count: those of valid steps, or of rows with a valid candidate."""
    if valid is None:
        return torch.ones_like(values, dtype=torch.bool)
    return valid if valid.shape == values.shape else valid.any(-1)


def _kl(component: Any, inputs: LogProbs) -> Answer:
    live = inputs.log_probs.detach().requires_grad_()
    fixed = {"ref_log_probs": inputs.ref_log_probs.detach().requires_grad_()}
    if inputs.old_log_probs is not None:
        fixed["old_log_probs"] = inputs.old_log_probs.detach().requires_grad_()
    value = call(component, live, fixed["ref_log_probs"], old_log_probs=fixed.get("old_log_probs"))
    _like("KL", value, live)
    slopes: tuple[Tensor | None, ...] = (None,) * 3
    if value.requires_grad:
        slopes = torch.autograd.grad(value.sum(), [live, *fixed.values()], allow_unused=True)
    for name, x in zip(fixed, slopes[1:], strict=False):
        if x is not None and bool((x != 0).any()):
            raise Violation(f"a gradient into {name}", "gradient into log_probs only: detach what is given")
    slope = torch.zeros_like(live) if slopes[0] is None else slopes[0]
    if getattr(component, "distributions", False):  # which move by their logits: the common part has no meaning
        return {"KL": value.detach(), "dKL/dlogits": slope - live.detach().exp() * slope.sum(-1, keepdim=True)}
    return {"KL": value.detach(), "dKL/dlog_probs": slope}


def _aggregation(component: Any, inputs: Masks) -> Answer:
    """Answer with the share of each step: the loss is the sum of shares times losses."""
    answer = call(component, inputs.valid, inputs.ends)
    total = answer.total.double()
    total = total.sum((-2, -1), keepdim=True) if total.ndim > 2 else total.sum()  # of each run
    share = answer.weights.double() / torch.where(total == 0, 1, total)
    return {"share": share.to(inputs.losses.dtype), "weights": answer.weights, "total": answer.total}


def _controller(component: Any, inputs: Observed) -> Answer:
    live = [x.detach().requires_grad_() for x in (inputs.coefficient, inputs.observed)]
    found = call(component, *live)
    _like("coefficient", found, inputs.coefficient)
    return {"coefficient": found.detach()}


_trajectories = cache(strategies.trajectories)
_estimated = cache(strategies.estimated)
_policy_batches = cache(strategies.policy_batches)
_value_batches = cache(strategies.value_batches)
_log_probs = cache(strategies.log_probs)
_rankings = cache(ranking_cases.rankings)
_scores = cache(score_cases.scores)
_masks = cache(strategies.masks)
_observed = cache(strategies.observed)


def _group(component: Component, needed: frozenset[str]) -> bool:
    return component.scope == "group" or "group_ids" in needed


def _most(component: Any) -> int | None:
    most: int | None = component.most_candidates()
    return most


def _takes(component: Component) -> float:
    return _most(component) or math.inf


VIEWS: Final[Mapping[str, View]] = {
    each.role: each
    for each in (
        View("advantage", _advantage, lambda c, needed: _trajectories(needed, one_episode=_group(c, needed))),
        View("normalizer", _normalizer, lambda _, needed: _estimated(needed)),
        View("objective", _objective, lambda _, needed: _policy_batches(needed)),
        View("value", _value, lambda _, needed: _value_batches(needed)),
        View("kl", _kl, lambda c, _: _log_probs(distributions=getattr(c, "distributions", False))),
        View("preference", _preference, lambda c, needed: _rankings(needed, most=_most(c)), _takes),
        View("reward_model", _reward_model, lambda c, needed: _scores(needed, most=_most(c)), _takes),
        View("aggregation", _aggregation, lambda _, __: _masks()),
        View("controller", _controller, lambda c, _: _observed(_targets(c))),
    )
}


def _targets(component: Component) -> tuple[float, ...]:
    target = getattr(component, "target", None)
    return (float(target), 1.0) if isinstance(target, int | float) and target > 0 else (0.01, 6.0)  # 1: other settings


def view(role: str) -> View:
    """Return how a role is called; raises ``LabError`` for a role that has no laws."""
    if role not in VIEWS:
        raise LabError(f"role {role!r} does no math that could be verified. {did_you_mean(role, VIEWS)}")
    return VIEWS[role]

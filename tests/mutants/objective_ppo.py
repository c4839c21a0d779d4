"""Mutants of ppo_clip and ppo_kl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Controller, PolicyObjective, Slot
from rlhf_lab.types import Loss, PolicyBatch, clean

from .mutant import REGISTRY, Mutant, variants
from .objective_bases import Clipping

__all__ = ["MUTANTS"]


def _least(a: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    return -torch.minimum(x.exp() * a, x.exp().clamp(low, high) * a)


def _one_edge(self: Clipping, a: Tensor, x: Tensor, _: PolicyBatch) -> Tensor:
    low, high = self.sides
    outside = (x.exp() < low) | (x.exp() > high)
    return -a * torch.where(outside, x.detach(), x).exp()


class LiveAdvantage(Clipping):
    name = "live_advantage_clip"

    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor:
        return _least(clean(batch.advantages, batch.valid), x, *self.sides)


class ClippedUncounted(LiveAdvantage):
    name = "clipped_uncounted"

    def __call__(self, batch: PolicyBatch) -> Loss:
        assert batch.old_log_probs is not None
        x = clean(batch.log_probs - batch.old_log_probs.detach(), batch.valid)
        a = clean(batch.advantages.detach(), batch.valid)
        low, high = self.sides
        live = torch.where(a > 0, x.exp() <= high, x.exp() >= low)
        return Loss(_least(a, x, low, high), weights=live.to(a))


_CLIP = {
    "P01 minimum before A": lambda s, a, x, b: -torch.minimum(x.exp(), x.exp().clamp(*s.sides)) * a,
    "P03 dual clip for every sign": lambda s, a, x, b: -torch.maximum(-_least(a, x, *s.sides), 3 * a),
    "P06 old log-probabilities recomputed": lambda s, a, x, b: _least(a, x - x.detach(), *s.sides),
    "P06b zero gradient": lambda s, a, x, b: _least(a, x - x, *s.sides),
    "P23 overall sign": lambda s, a, x, b: -_least(a, x, *s.sides),
    "maximum for minimum": lambda s, a, x, b: -torch.maximum(x.exp() * a, x.exp().clamp(*s.sides) * a),
    "clip alone": lambda s, a, x, b: -x.exp().clamp(*s.sides) * a,
    "clip of the log-ratio": lambda s, a, x, b: (
        -torch.minimum(x.exp() * a, x.clamp(s.sides[0] - 1, s.sides[1] - 1).exp() * a)
    ),
    "sides swapped": lambda s, a, x, b: _least(a, x, 2 - s.sides[1], 2 - s.sides[0]),
    "edge 1 / (1 + clip)": lambda s, a, x, b: _least(a, x, 1 / (2 - s.sides[0]), s.sides[1]),
    "ratio of the row": lambda s, a, x, b: _least(a, x.mean(-1, keepdim=True).expand(x.shape), *s.sides),
    "ratio upside down": lambda s, a, x, b: _least(a, -x, *s.sides),
    "upper side ignored": lambda s, a, x, b: _least(a, x, s.sides[0], 1 + s.clip),
    "lower side ignored": lambda s, a, x, b: _least(a, x, 1 - s.clip, s.sides[1]),
    "no gradient outside, whatever the sign": _one_edge,
    "half the clip": lambda s, a, x, b: _least(a, x, (1 + s.sides[0]) / 2, (1 + s.sides[1]) / 2),
    "clip of the gain": lambda s, a, x, b: -torch.minimum(x.exp() * a, (x.exp() * a).clamp(*s.sides)),
    "advantages whitened": lambda s, a, x, b: _least((a - a.mean()) / (a.std(correction=0) + 1e-8), x, *s.sides),
    "upper edge only": lambda s, a, x, b: _least(a, x, -torch.inf, s.sides[1]),
    "lower edge only": lambda s, a, x, b: _least(a, x, s.sides[0], torch.inf),
    "log-ratio for ratio": lambda s, a, x, b: -torch.minimum(x * a, x.clamp(s.sides[0] - 1, s.sides[1] - 1) * a),
    "ratio minus one": lambda s, a, x, b: _least(a, x, *s.sides) + a,
    "clipped ratio detached": lambda s, a, x, b: -torch.minimum(x.exp() * a, x.detach().exp().clamp(*s.sides) * a),
    "sign of the advantage": lambda s, a, x, b: _least(a.sign(), x, *s.sides),
    "mean of both": lambda s, a, x, b: -0.5 * (x.exp() + x.exp().clamp(*s.sides)) * a,
    "minimum over the row": lambda s, a, x, b: _least(a, x.amin(-1, keepdim=True).expand(x.shape), *s.sides),
    "rolled back beyond the edge": lambda s, a, x, b: (
        _least(a, x, *s.sides) + 0.3 * (x.exp() - s.sides[1]).clamp(min=0)
    ),
    "previous advantage": lambda s, a, x, b: _least(a.roll(1, -1), x, *s.sides),
}


class Penalised(PolicyObjective):
    """Right; its parts are what the mutants below replace."""

    requires = frozenset({"old_log_probs"})
    coef: float = Field(default=1.0, ge=0)
    controller: Annotated[Controller, Slot("controller")] = REGISTRY.get("controller", "adaptive_kl")()

    def __call__(self, batch: PolicyBatch) -> Loss:
        assert batch.old_log_probs is not None
        x = clean(batch.log_probs - batch.old_log_probs.detach(), batch.valid)
        a = clean(batch.advantages.detach(), batch.valid)
        return Loss(self.loss(a, x, self.weight(batch)), metrics={"kl": self.seen(x.detach())})

    def weight(self, batch: PolicyBatch) -> Tensor:
        return (self.initial_state() if batch.state is None else batch.state)["coef"].to(batch.log_probs)

    def loss(self, a: Tensor, x: Tensor, coef: Tensor) -> Tensor:
        return coef * self.penalty(x) - a * x.exp()

    def penalty(self, x: Tensor) -> Tensor:
        return torch.expm1(x) - x

    def seen(self, x: Tensor) -> Tensor:
        return torch.expm1(x) - x

    def initial_state(self) -> dict[str, Tensor]:
        return {"coef": torch.tensor(self.coef, dtype=torch.float64)}

    def next_state(self, state: Mapping[str, Tensor], metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"coef": self.controller(state["coef"], metrics["kl"])}


def _mean_of_runs(self: Penalised, batch: PolicyBatch) -> Tensor:
    coef = (self.initial_state() if batch.state is None else batch.state)["coef"].to(batch.log_probs)
    return coef.mean()


def _in_place(self: Penalised, state: Mapping[str, Tensor], metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state["coef"].mul_(2)
    return dict(state)


_OWN = REGISTRY.get("controller", "adaptive_kl")()
_PENALISED = {
    "loss": {
        "P11 penalty sign": lambda s, a, x, c: -c * s.penalty(x) - a * x.exp(),
        "P23 surrogate sign": lambda s, a, x, c: c * s.penalty(x) + a * x.exp(),
        "coefficient on both terms": lambda s, a, x, c: c * (s.penalty(x) - a * x.exp()),
        "surrogate clipped too": lambda s, a, x, c: c * s.penalty(x) + _least(a, x, 0.8, 1.2),
        "penalty weighed by A": lambda s, a, x, c: c * a.abs() * s.penalty(x) - a * x.exp(),
        "penalty taken off A": lambda s, a, x, c: -(a - c * s.penalty(x).detach()) * x.exp(),
    },
    "penalty": {
        "K01 arguments swapped": lambda _, x: torch.expm1(-x) + x,
        "k2 for k3": lambda _, x: 0.5 * x**2,
        "k1": lambda _, x: -x,
        "k1 of the other sign": lambda _, x: x,
        "K04 weighed by the ratio": lambda _, x: x.exp() * x - torch.expm1(x),
        "penalty detached": lambda _, x: (torch.expm1(x) - x).detach(),
        "without the 1": lambda _, x: x.exp() - x,
        "K12 exponent of a ratio": lambda _, x: torch.expm1(x.clamp(max=6).exp() - 1) - (x.clamp(max=6).exp() - 1),
        "half": lambda _, x: 0.5 * (torch.expm1(x) - x),
        "absolute": lambda _, x: x.abs(),
    },
    "weight": {
        "one coefficient for all runs": _mean_of_runs,
        "state ignored": lambda s, b: torch.tensor(s.coef).to(b.log_probs),
        "nothing before the first state": lambda s, b: (torch.zeros(()) if b.state is None else b.state["coef"]).to(
            b.log_probs
        ),
    },
    "seen": {
        "sees the ratio": lambda _, x: x.exp(),
        "sees the log-ratio": lambda _, x: -x,
        "sees the square": lambda _, x: x**2,
    },
    "next_state": {
        "a controller of its own": lambda s, state, metrics: {"coef": _OWN(state["coef"], metrics["kl"])},
        "never adapts": lambda _, state, metrics: dict(state),
        "adapts the wrong way": lambda s, state, metrics: {
            "coef": state["coef"] ** 2 / s.controller(state["coef"], metrics["kl"])
        },
        "changes the state in place": _in_place,
        "state in float32": lambda s, state, metrics: {"coef": s.controller(state["coef"], metrics["kl"]).float()},
        "state under another name": lambda _, state, metrics: {"beta": state["coef"]},
    },
    "initial_state": {"starts at 1": lambda _: {"coef": torch.tensor(1.0, dtype=torch.float64)}},
}

MUTANTS: list[Mutant] = [
    *variants(Clipping, "loss", _CLIP, "ppo_clip"),
    Mutant("P09 advantage not detached", LiveAdvantage, "ppo_clip"),
    Mutant("clipped steps not counted", ClippedUncounted, "ppo_clip"),
    *(mutant for part, table in _PENALISED.items() for mutant in variants(Penalised, part, table, "ppo_kl")),
]

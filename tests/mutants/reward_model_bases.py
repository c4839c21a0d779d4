"""What mutants of reward-model losses are built from: the valid candidates first, each loss a formula of them."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import RewardObjective
from rlhf_lab.types import Loss, Refused, Scores, clean

__all__ = [
    "Centred",
    "Drawn",
    "Margin",
    "Pairs",
    "Pointwise",
    "Rankings",
    "Soft",
    "Targets",
    "Thresholded",
    "Tied",
    "gathered",
    "mask_of",
    "per_row",
]


def mask_of(batch: Scores) -> Tensor:
    return torch.ones_like(batch.scores, dtype=torch.bool) if batch.valid is None else batch.valid


def gathered(x: Tensor, valid: Tensor) -> Tensor:
    """Return the values of valid candidates first, in their order, 0 behind them."""
    order = (~valid).int().argsort(dim=-1, stable=True)
    return clean(x, valid).gather(-1, order)


def per_row(values: Tensor, counts: Tensor) -> Loss:
    """Return losses that are 0 and of weight 0 where a row does not count."""
    return Loss(clean(values, counts), counts.to(values))


class Pairs(RewardObjective):
    """A loss of the better score c, the worse one r, and their difference d."""

    max_candidates = 2

    def __call__(self, batch: Scores) -> Loss:
        valid = mask_of(batch)
        if bool((valid.sum(-1) > 2).any()):
            raise Refused("pairs only")
        wide = torch.nn.functional.pad(gathered(batch.scores, valid), (0, 1))  # a second place even where k is 1
        counts = valid.sum(-1) == 2
        c, r = (clean(wide[..., place], counts) for place in (0, 1))
        return per_row(self.loss(c - r, c, r, batch), counts)

    @abstractmethod
    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor: ...


class Margin(Pairs):
    requires = frozenset({"margins"})


class Soft(Pairs):
    requires = frozenset({"preference_prob"})


class Centred(Pairs):
    coef: float = Field(default=0.01, ge=0)


class Drawn(Pairs):
    """A pair seen with noise."""

    scale: float = Field(default=1.0, gt=0)


class _Ties(Pairs):
    requires = frozenset({"ranks"})

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        assert batch.ranks is not None
        valid = mask_of(batch)
        ranks = torch.nn.functional.pad(gathered(batch.ranks, valid), (0, 1))
        tie = (ranks[..., 0] == ranks[..., 1]) & (valid.sum(-1) == 2)
        if not self.possible and bool(tie.any()):
            raise Refused("no room for ties")
        return torch.where(tie, self.tie(d), self.win(d))

    @property
    @abstractmethod
    def possible(self) -> bool: ...

    @abstractmethod
    def win(self, d: Tensor) -> Tensor: ...

    @abstractmethod
    def tie(self, d: Tensor) -> Tensor: ...


class Thresholded(_Ties):
    """Wins and ties as Rao and Kupper have them."""

    theta: float = Field(default=2.0, ge=1)

    @property
    def possible(self) -> bool:
        return self.theta > 1

    @property
    def gap(self) -> Tensor:
        return torch.tensor(self.theta, dtype=torch.float64).log()

    def win(self, d: Tensor) -> Tensor:
        return torch.nn.functional.softplus((self.gap - d).to(d))

    def tie(self, d: Tensor) -> Tensor:
        room = math.log(self.theta**2 - 1) if self.possible else 0.0
        both = torch.nn.functional.softplus((self.gap - d).to(d)) + torch.nn.functional.softplus((self.gap + d).to(d))
        return (both - room).to(d)


class Tied(_Ties):
    """Wins and ties as Davidson has them."""

    nu: float = Field(default=1.0, ge=0)

    @property
    def possible(self) -> bool:
        return self.nu > 0

    def whole(self, d: Tensor) -> Tensor:
        """Return log(e^{d/2} + e^{−d/2} + nu)."""
        two = 0.5 * d.abs() + torch.log1p((-d.abs()).exp())
        return two if self.nu == 0 else torch.logaddexp(two, torch.full_like(d, self.nu).log())

    def win(self, d: Tensor) -> Tensor:
        return self.whole(d) - 0.5 * d

    def tie(self, d: Tensor) -> Tensor:
        return self.whole(d) - torch.full_like(d, self.nu if self.nu > 0 else 1.0).log()


class Rankings(RewardObjective):
    """A loss of scores s with the valid ones in front, which v tells."""

    def __call__(self, batch: Scores) -> Loss:
        valid = mask_of(batch)
        s, v = gathered(batch.scores, valid), valid.sort(dim=-1, descending=True, stable=True).values
        return per_row(self.loss(s, v, batch), valid.sum(-1) > 1)

    @abstractmethod
    def loss(self, s: Tensor, v: Tensor, batch: Scores) -> Tensor: ...


class Targets(RewardObjective):
    """A loss of valid scores s and targets y in front, which v tells."""

    requires = frozenset({"targets"})

    def __call__(self, batch: Scores) -> Loss:
        assert batch.targets is not None
        valid = mask_of(batch)
        s, y = (gathered(x, valid) for x in (batch.scores, batch.targets.detach()))
        values = self.loss(s, y, valid.sort(dim=-1, descending=True, stable=True).values, batch)
        return per_row(values, valid.sum(-1) >= self.least())

    def least(self) -> int:
        """Return how many candidates a row needs to count."""
        return 2

    @abstractmethod
    def loss(self, s: Tensor, y: Tensor, v: Tensor, batch: Scores) -> Tensor: ...


class Pointwise(Targets):
    def least(self) -> int:
        return 1

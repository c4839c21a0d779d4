"""How the episodes of a game of turns end: where, with which probability, and when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lab.worlds.turn_chain import Flags, Floats, TurnChain

__all__ = ["Ending", "ending_of"]


@dataclass(frozen=True, eq=False)
class Ending:
    """How episodes end, not discounted.

    ``probability[name] [*b]`` of ending there; ``steps[name] [*b]``, the mean number of the agent's steps to it given
    that the episode ends there, NaN where none does; ``never [*b]``, the probability of an episode without end.
    """

    probability: dict[str, Tensor]
    steps: dict[str, Tensor]
    never: Tensor


def ending_of(chains: Iterable[TurnChain], start: Floats, ends: Mapping[str, Flags], axes: tuple[int, ...]) -> Ending:
    """Return the ending of undiscounted ``chains``, one per run along ``axes``, from ``start [s]``.

    With d the visits, and d' those of episodes begun in d, an ``ends [s]`` is entered with probability
    Σ_s d(s) P(end|s), after Σ_s d'(s) P(end|s) / Σ_s d(s) P(end|s) steps on the mean.
    """
    mass, moments, never = [], [], []
    for chain in chains:
        passing = chain.passing(start)
        entered, later = chain.arrivals(passing), chain.arrivals(chain.passing(passing))
        mass.append([float(entered[end].sum()) for end in ends.values()])
        moments.append([float(later[end].sum()) for end in ends.values()])
        never.append(float((start + entered)[chain.endless].sum()))
    probability = torch.tensor(mass, dtype=torch.float64).reshape(*axes, len(ends))
    steps = torch.tensor(moments, dtype=torch.float64).reshape(*axes, len(ends)) / probability
    by_name = [dict(zip(ends, x.unbind(-1), strict=True)) for x in (probability, steps)]
    return Ending(by_name[0], by_name[1], torch.tensor(never, dtype=torch.float64).reshape(axes))

"""Small Markov decision processes with exact values, and the cart pole.

Importing the package registers ``rlhf_lab/RandomWalk-v0``, ``rlhf_lab/ShortCorridor-v0``, ``rlhf_lab/GridWorld-v0`` and
``rlhf_lab/CartPole-v0`` with Gymnasium, so ``gymnasium.make("rlhf_lab_mdp:rlhf_lab/RandomWalk-v0")`` finds them.
"""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component
from rlhf_lab_mdp.cartpole import CartPole
from rlhf_lab_mdp.grid import GridWorld
from rlhf_lab_mdp.gymnasium_envs import register
from rlhf_lab_mdp.mirrored import MirroredRewards
from rlhf_lab_mdp.table import TransitionTable
from rlhf_lab_mdp.walks import RandomWalk, ShortCorridor

__all__ = [
    "CartPole",
    "GridWorld",
    "MirroredRewards",
    "RandomWalk",
    "ShortCorridor",
    "TransitionTable",
    "rlhf_lab_components",
]

register()


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the environments."""
    return [CartPole, GridWorld, MirroredRewards, RandomWalk, ShortCorridor, TransitionTable]

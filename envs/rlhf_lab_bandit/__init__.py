"""Bandits: Gaussian, Bernoulli and contextual.

Importing the package registers ``rlhf_lab/Bandit-v0``, ``rlhf_lab/BernoulliBandit-v0`` and
``rlhf_lab/ContextualBandit-v0`` with Gymnasium.
"""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component
from rlhf_lab_bandit.bandits import BernoulliBandit, ContextualBandit, GaussianBandit
from rlhf_lab_bandit.gymnasium_envs import register

__all__ = ["BernoulliBandit", "ContextualBandit", "GaussianBandit", "rlhf_lab_components"]

register()


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the environments."""
    return [BernoulliBandit, ContextualBandit, GaussianBandit]

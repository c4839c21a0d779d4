"""Reward-model and preference objectives, and preference data from files."""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component
from rlhf_lab_preference.bradley_terry import BradleyTerry
from rlhf_lab_preference.likelihood import DPO
from rlhf_lab_preference.plackett_luce import PlackettLuce

__all__ = [
    "DPO",
    "BradleyTerry",
    "PlackettLuce",
    "rlhf_lab_components",
]


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the components of this plugin."""
    return [
        *(BradleyTerry, PlackettLuce),
        *(DPO,),
    ]

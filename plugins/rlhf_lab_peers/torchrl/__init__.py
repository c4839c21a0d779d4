"""TorchRL: value estimators, group advantages, PPO and LLM losses and their divergences."""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component
from rlhf_lab_peers.installed import require
from rlhf_lab_peers.torchrl.aggregation import PenaltyMean, PromptMean, TokenMean
from rlhf_lab_peers.torchrl.divergences import K3, BetaController, KLPenalty
from rlhf_lab_peers.torchrl.estimators import GAE, TD0, TDLambda, VectorisedGAE, VectorisedTDLambda, VTrace
from rlhf_lab_peers.torchrl.groups import GroupAdvantage
from rlhf_lab_peers.torchrl.losses import CISPO, ClipPPO, GRPOClip, UnclippedPPO

__all__ = [
    "CISPO",
    "GAE",
    "K3",
    "TD0",
    "BetaController",
    "ClipPPO",
    "GRPOClip",
    "GroupAdvantage",
    "KLPenalty",
    "PenaltyMean",
    "PromptMean",
    "TDLambda",
    "TokenMean",
    "UnclippedPPO",
    "VTrace",
    "VectorisedGAE",
    "VectorisedTDLambda",
    "rlhf_lab_components",
]

require("torchrl", "torchrl")


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the components that wrap TorchRL."""
    return [
        *(GAE, VectorisedGAE, TDLambda, VectorisedTDLambda, TD0, VTrace, GroupAdvantage),
        *(ClipPPO, UnclippedPPO, GRPOClip, CISPO),
        *(K3, KLPenalty, BetaController),
        *(TokenMean, PromptMean, PenaltyMean),
    ]

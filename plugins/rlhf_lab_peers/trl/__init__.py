"""TRL: group advantages, policy losses, their aggregation and KL penalty, losses on preferences and on scores."""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component
from rlhf_lab_peers.installed import require
from rlhf_lab_peers.trl import aggregation, groups, losses, reward, sequence_losses, unpaired
from rlhf_lab_peers.trl.divergence import K3, PlainK3
from rlhf_lab_peers.trl.preference import DPO_LOSSES
from rlhf_lab_peers.trl.reference_free import SimPO

__all__ = ["rlhf_lab_components"]

require("trl", "trl")


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the components that wrap TRL."""
    return [
        *(groups.GRPO, groups.BatchScaledGRPO, groups.UnscaledGRPO, groups.RLOO),
        *(losses.ClippedGRPO, losses.GRPO, losses.CISPO, losses.SAPO),
        *(sequence_losses.GSPO, sequence_losses.VESPO, sequence_losses.RLOO),
        *(aggregation.DAPO, aggregation.BNPO, aggregation.GRPO, aggregation.LUSPO, aggregation.DrGRPO),
        *(K3, PlainK3),
        *DPO_LOSSES,
        *(unpaired.KTO, unpaired.UnpairedAPOZero, SimPO),
        *(reward.BradleyTerry, reward.BradleyTerryMargin, reward.BradleyTerryCentred),
    ]

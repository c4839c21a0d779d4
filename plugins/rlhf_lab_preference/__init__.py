"""Reward-model and preference objectives, and preference data from files."""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component
from rlhf_lab_preference.anchored import APODown, APOZero
from rlhf_lab_preference.bradley_terry import BradleyTerry, BradleyTerryCentred, BradleyTerryMargin, SoftBradleyTerry
from rlhf_lab_preference.divergences import FDPO
from rlhf_lab_preference.each_response import BCO, DPOP, NCA, SPPO
from rlhf_lab_preference.file import PreferenceFile
from rlhf_lab_preference.label_noise import EXO, CautiousDPO, RobustDPO
from rlhf_lab_preference.likelihood import DPO
from rlhf_lab_preference.listwise import ListNet, ListNetBest, PairwiseOfK
from rlhf_lab_preference.pairwise import IPO, DiscoPOP, Hinge, RewardAwareRPO
from rlhf_lab_preference.per_token import ORPO, RDPO, DPONorm, SimPO
from rlhf_lab_preference.plackett_luce import PlackettLuce
from rlhf_lab_preference.pointwise import PointwiseBCE, Regression
from rlhf_lab_preference.supervised import CPO, SFT, IterativeRPO, RPOWithSFT, SLiC
from rlhf_lab_preference.thurstone import Thurstone
from rlhf_lab_preference.ties import Davidson, RaoKupper
from rlhf_lab_preference.tokenwise import LDDPO, TDPO
from rlhf_lab_preference.unpaired import KTO

__all__ = [
    "BCO",
    "CPO",
    "DPO",
    "DPOP",
    "EXO",
    "FDPO",
    "IPO",
    "KTO",
    "LDDPO",
    "NCA",
    "ORPO",
    "RDPO",
    "SFT",
    "SPPO",
    "TDPO",
    "APODown",
    "APOZero",
    "BradleyTerry",
    "BradleyTerryCentred",
    "BradleyTerryMargin",
    "CautiousDPO",
    "DPONorm",
    "Davidson",
    "DiscoPOP",
    "Hinge",
    "IterativeRPO",
    "ListNet",
    "ListNetBest",
    "PairwiseOfK",
    "PlackettLuce",
    "PointwiseBCE",
    "PreferenceFile",
    "RPOWithSFT",
    "RaoKupper",
    "Regression",
    "RewardAwareRPO",
    "RobustDPO",
    "SLiC",
    "SimPO",
    "SoftBradleyTerry",
    "Thurstone",
    "rlhf_lab_components",
]


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the components of this plugin."""
    return [
        *(PreferenceFile,),
        *(BradleyTerry, BradleyTerryMargin, BradleyTerryCentred, SoftBradleyTerry, Thurstone, RaoKupper, Davidson),
        *(PlackettLuce, PairwiseOfK, ListNetBest, ListNet, Regression, PointwiseBCE),
        *(DPO, FDPO, CautiousDPO, RobustDPO, IPO, Hinge, EXO, DiscoPOP, RewardAwareRPO),
        *(DPOP, SPPO, NCA, BCO, APOZero, APODown, KTO),
        *(DPONorm, RDPO, SimPO, ORPO, TDPO, LDDPO),
        *(SFT, CPO, SLiC, IterativeRPO, RPOWithSFT),
    ]

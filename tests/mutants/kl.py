"""Broken KL estimators: biased values, losses with the gradient of something else, weights gone wrong.

Codes are those of the list of real bugs. Those of whole distributions: see ``kl_distributions``.
"""

from __future__ import annotations

from typing import Final

from mutants.kl_controls import (
    AbsoluteByCases,
    K2AsRewardGradient,
    K2OnPolicy,
    K3Plus,
    PlainK3,
)
from mutants.kl_distributions import WHOLE, ByCrossEntropy
from mutants.kl_k1 import (
    AgainstOldPolicy,
    BatchMean,
    ChanceTimesRatio,
    Clamped,
    CoefficientUnread,
    GradientStopped,
    InBits,
    InPlace,
    K1Detached,
    K1Turned,
    K1Unweighed,
    LiveOldPolicy,
    LiveReference,
    MinusRatio,
    OnlyPositive,
    RatioMinusOne,
    Remembers,
    Rounded,
    RowsByPlace,
    SecondForm,
    SumSoFar,
    ThroughProbabilities,
    TwoAxesOnly,
    WeightCapped,
    WeightTurned,
)
from mutants.kl_others import (
    AbsoluteDetached,
    AbsoluteStopped,
    AbsoluteUnweighed,
    Cancels,
    DifferenceOfChances,
    ExponentOfRatio,
    GradientOfK2,
    HalfAbsolute,
    Huber,
    K2OfTheAverage,
    K2Unweighed,
    K3Clamped,
    K3Detached,
    K3Turned,
    K3Unweighed,
    LiveK2,
    LogRatioClamped,
    Overflows,
    PlusLog,
    SecondOrder,
    SignForgotten,
    Smoothed,
    SquareOfChances,
    SquareOfRatio,
    WholeSquare,
    WithoutOne,
)
from mutants.mutant import Mutant
from rlhf_lab.components import KLEstimator

__all__ = ["CONTROLS", "MUTANTS"]


MUTANTS: Final = [
    Mutant("K02", K1Unweighed, "k1"),
    Mutant("K02", K1Unweighed, "k2"),
    Mutant("K04", K1Detached, "k1"),
    Mutant("P11: sign", K1Turned, "k1"),
    Mutant("K08", MinusRatio, "k1"),
    Mutant("K08: about 0", RatioMinusOne, "k1"),
    Mutant("weighed by the policy", ChanceTimesRatio, "k1"),
    Mutant("logarithm to base 2", InBits, "k1"),
    Mutant("K10", Clamped, "k1"),
    Mutant("negative samples dropped", OnlyPositive, "k1"),
    Mutant("gradient stopped", GradientStopped, "k1"),
    Mutant("weight upside down", WeightTurned, "k1"),
    Mutant("weight capped", WeightCapped, "k1"),
    Mutant("old policy for the reference", AgainstOldPolicy, "k1"),
    Mutant("P09: gradient into the reference", LiveReference, "k1"),
    Mutant("gradient into the old policy", LiveOldPolicy, "k1"),
    Mutant("K14: mean over the batch", BatchMean, "k1"),
    Mutant("sum over earlier steps", SumSoFar, "k1"),
    Mutant("ratio of probabilities", ThroughProbabilities, "k1"),
    Mutant("in place", InPlace, "k1"),
    Mutant("rows weighed by their place", RowsByPlace, "k1"),
    Mutant("two axes only", TwoAxesOnly, "k1"),
    Mutant("keeps state", Remembers, "k1"),
    Mutant("float32 inside", Rounded, "k1"),
    Mutant("N13b: coefficient is not read", CoefficientUnread, "k1"),
    Mutant("another device, another formula", SecondForm, "k1"),
    Mutant("K03b: gradient of E[k2]", LiveK2, "k2"),
    Mutant("K03b", K2Unweighed, "k2"),
    Mutant("half forgotten", WholeSquare, "k2"),
    Mutant("square of ratio - 1", SquareOfRatio, "k2"),
    Mutant("square of probabilities", SquareOfChances, "k2"),
    Mutant("linear far away", Huber, "k2"),
    Mutant("square of the sequence's sum", K2OfTheAverage, "k2"),
    Mutant("K01", K3Turned, "k3"),
    Mutant("K03", K3Unweighed, "k3"),
    Mutant("K03", K3Unweighed, "k2"),
    Mutant("K04", K3Detached, "k3"),
    Mutant("K12", ExponentOfRatio, "k3"),
    Mutant("one forgotten", WithoutOne, "k3"),
    Mutant("sign of the logarithm", PlusLog, "k3"),
    Mutant("value clamped", K3Clamped, "k3"),
    Mutant("K10", LogRatioClamped, "k3"),
    Mutant("cancellation", Cancels, "k3"),
    Mutant("expansion", SecondOrder, "k3"),
    Mutant("k3+ under the name of k3", GradientOfK2, "k3"),
    Mutant("overflow", Overflows, "k3"),
    Mutant("half", HalfAbsolute, "abs"),
    Mutant("difference of probabilities", DifferenceOfChances, "abs"),
    Mutant("without weight", AbsoluteUnweighed, "abs"),
    Mutant("K04", AbsoluteDetached, "abs"),
    Mutant("smoothed", Smoothed, "abs"),
    Mutant("gradient stopped", AbsoluteStopped, "abs"),
    Mutant("absolute value forgotten", SignForgotten, "abs"),
    *WHOLE,
]


CONTROLS: Final[list[type[KLEstimator]]] = [
    K2AsRewardGradient,
    K2OnPolicy,
    K3Plus,
    PlainK3,
    AbsoluteByCases,
    ByCrossEntropy,
]

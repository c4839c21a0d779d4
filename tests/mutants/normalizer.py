"""Broken normalizers: statistics of the wrong rows or steps, constants that explode, targets that change.

Codes are those of the list of real bugs. ``normalizer_forms`` are right; mutants override what they count, their centre
or their scale.
"""

from __future__ import annotations

from typing import Final

from mutants.mutant import Mutant
from mutants.normalizer_contract import (
    Bounded,
    BoundedFarAway,
    Centred,
    Halved,
    Lifted,
    MixesRuns,
    Overwritten,
    PaddingFilled,
    Returned,
    RewardsLeakIn,
    Rounded,
    SecondForm,
    Signs,
)
from mutants.normalizer_controls import (
    GroupMeanThenBatchScale,
    PairwiseBatch,
    PairwiseGroup,
    PlainTorch,
    ScaledOnly,
)
from mutants.normalizer_groups import (
    BatchMeanGroupScale,
    Contiguous,
    GroupAloneKept,
    GroupMeanBatchScale,
    GroupNoScale,
    GroupOfRows,
    GroupTurned,
    Neighbours,
    OddAndEven,
    ScaleByGroupId,
    WholeBatch,
    WithoutOwn,
)
from mutants.normalizer_statistics import (
    Alone,
    AtLeastEps,
    Cancels,
    Clipped,
    ConstantKept,
    DdofUnread,
    EachPosition,
    EachRow,
    EmptyIsNaN,
    EndsForEpisodes,
    EpsInsideRoot,
    FirstRowsOnly,
    InPlace,
    LargestIsOne,
    Median,
    NoisyTies,
    NoMean,
    NoScale,
    OfRewards,
    OtherDdof,
    OverUnread,
    PadsCount,
    PadsMoved,
    RowsForEpisodes,
    SignsApart,
    SinglePrecision,
    SoFar,
    Squashed,
    TargetsInvented,
    TargetsLost,
    TargetsToo,
    TerminatedOnly,
    Turned,
    Variance,
    ZeroToOne,
)
from rlhf_lab.components import AdvantageNormalizer

__all__ = ["CONTROLS", "MUTANTS"]


_BATCH: Final[list[tuple[str, type[AdvantageNormalizer]]]] = [
    ("mean forgotten", NoMean),
    ("deviation forgotten", NoScale),
    ("variance for deviation", Variance),
    ("median", Median),
    ("P23: overall sign", Turned),
    ("largest is one", LargestIsOne),
    ("from zero to one", ZeroToOne),
    ("clipped", Clipped),
    ("squashed", Squashed),
    ("eps inside the root", EpsInsideRoot),
    ("eps as a minimum", AtLeastEps),
    ("the other ddof", OtherDdof),
    ("ddof is not read", DdofUnread),
    ("over is not read", OverUnread),
    ("a row is an episode", RowsForEpisodes),
    ("ends alone count", EndsForEpisodes),
    ("N08", PadsCount),
    ("N09", PadsMoved),
    ("N07", EmptyIsNaN),
    ("one alone keeps its value", Alone),
    ("equal ones keep their value", ConstantKept),
    ("cancellation", Cancels),
    ("targets shifted too", TargetsToo),
    ("A12: targets lost", TargetsLost),
    ("targets invented", TargetsInvented),
    ("each row for itself", EachRow),
    ("each position for itself", EachPosition),
    ("statistics so far", SoFar),
    ("statistics of finished rows", TerminatedOnly),
    ("rewards for advantages", OfRewards),
    ("signs scaled apart", SignsApart),
    ("statistics of the first rows", FirstRowsOnly),
    ("in place", InPlace),
    ("in place, in the raw advantages", Overwritten),
    ("runs mixed", MixesRuns),
    ("global randomness", NoisyTies),
    ("single precision", SinglePrecision),
]


_GROUP: Final[list[tuple[str, type[AdvantageNormalizer]]]] = [
    ("N02", Contiguous),
    ("N02: neighbouring rows", Neighbours),
    ("N04", WholeBatch),
    ("ids modulo two", OddAndEven),
    ("scale of the batch", GroupMeanBatchScale),
    ("mean of the batch", BatchMeanGroupScale),
    ("mean of the others", WithoutOwn),
    ("rows weigh alike", GroupOfRows),
    ("scaled by the id", ScaleByGroupId),
    ("P23: overall sign", GroupTurned),
    ("N07: one alone keeps its value", GroupAloneKept),
    ("deviation forgotten", GroupNoScale),
    ("N04: groups ignored", EachRow),
]


_NONE: Final[list[tuple[str, type[AdvantageNormalizer]]]] = [
    ("halved", Halved),
    ("clipped", Bounded),
    ("clipped far away", BoundedFarAway),
    ("float32 inside", Rounded),
    ("digits lost in float32", Lifted),
    ("centred", Centred),
    ("signs only", Signs),
    ("targets for advantages", Returned),
    ("N09", PaddingFilled),
    ("N15", RewardsLeakIn),
    ("another device, another formula", SecondForm),
]


MUTANTS: Final = [
    Mutant(bug, component, imitates)
    for imitates, found in (("batch", _BATCH), ("group", _GROUP), ("none", _NONE))
    for bug, component in found
]


CONTROLS: Final[list[type[AdvantageNormalizer]]] = [
    PairwiseBatch,
    PairwiseGroup,
    PlainTorch,
    GroupMeanThenBatchScale,
    ScaledOnly,
]

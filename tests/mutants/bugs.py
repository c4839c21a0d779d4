"""The list of real bugs, entry by entry: which roles rebuild it as a mutant, what will, or why none can.

Codes: A returns and advantages, T token bookkeeping, N baselines and normalisation, P policy objectives, K divergence,
V critic losses, D preferences, G aggregation, E collection.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BUGS", "LATER", "OUT", "REBUILT"]


def codes(text: str) -> list[str]:
    """Return the codes of a line."""
    return text.split()


BUGS: Final = codes(
    "A01 A02 A05 A06 A07 A08 A10 A12 A14 A16 A17 A19 A20 "
    "T01 T02 T04 T07 T08 T08b T09 T13 T14 T15 T16 T18 T23 "
    "N01 N02 N04 N07 N08 N09 N13 N13b N13c N15 "
    "P01 P03 P06 P06b P07 P08 P09 P10 P11 P12 P13 P13b P14 P14b P14c P14d P23 "
    "K01 K02 K03 K03b K04 K08 K10 K12 K14 "
    "V02 V03 V04 V05 V06 V08 "
    "D01 D02 D05 D05b D05c D07 D07b D10 D11 D12 D14 D16 D20 D21 D22 D30 "
    "G01 G02 G03 G04 G05 G05b G08 G09 G11 G12 G15 "
    "E01 E04 E05"
)

REBUILT: Final = {  # code: the roles that have a mutant of it
    **dict.fromkeys(codes("A01 A02 A05 A06 A07 A08 A10 A12 A14 A16 A17 A19 T01 T02 T04 N01 N02 N04 N07"), "advantage"),
    **dict.fromkeys(codes("N08 N09 N15"), "normalizer"),
    **dict.fromkeys(codes("A20 P01 P03 P06 P06b P07 P08 P09 P10 P11 P14 P14b P14c P14d P23"), "objective"),
    **dict.fromkeys(codes("K01 K02 K03 K03b K04 K08 K10 K12"), "kl"),
    **dict.fromkeys(codes("V02 V03 V04 V05 V06 V08"), "value"),
    **dict.fromkeys(codes("G01 G02 G04 G08 G09 G11 G12 G15 K14"), "aggregation"),
    **dict.fromkeys(codes("D01 D02 D05 D05b D05c D07 D07b D10 D11 D12 D16"), "preference"),
    **dict.fromkeys(codes("D14 D20 D21 D22"), "reward_model"),
    "E05": "advantage",
}

_TOKENS: Final = "the language models: which tokens count, and log-probabilities of tokens"

LATER: Final = {  # code: what will cover it
    **dict.fromkeys(codes("T07 T08 T08b T09 T13 T14 T15 T16 T23 P12 E04"), _TOKENS),
    "T18": "the language models: reward models that read a score at a token",
    "D30": "the language models: log 2 at the start of a whole run",
    **dict.fromkeys(codes("G05 G05b"), "executors: sums over ranks"),
}

OUT: Final = {  # code: why no component can have it
    "N13": "no component scales rewards by a running return; whether it is reset is contested",
    "N13b": "no component scales rewards by a running return",
    "N13c": "no component scales rewards by a running return; the automatic reset is the Gymnasium adapter's",
    "P13": "actions are discrete: none is clipped between its density and the environment",
    "P13b": "actions are discrete: none is squashed",
    "G03": "how many micro-batches make a step is the trainer's: tests/test_minibatches.py, tests/test_step.py",
    "E01": "the automatic reset is the Gymnasium adapter's: tests/test_gymnasium_env.py",
}

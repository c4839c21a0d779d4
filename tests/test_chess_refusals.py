"""Endings that cannot be: each wrong field of an environment is told by name, before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_lab.errors import LabError
from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.runner import start
from rlhf_lab_chess import KPK, KQK


def refused(**fields: Any) -> str:
    spec = {"environment": {"name": "krk", **fields}, "policy": "tabular_softmax", "trainer": "online"}
    spec |= {"advantage": "monte_carlo", "objective": "reinforce", "optimizer": "sgd"}
    with pytest.raises(LabError) as caught:
        start(make_spec(spec, load_plugins())[0], [0])
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"board": 3}, "environment.board: "),
        ({"board": 9}, "environment.board: "),
        ({"name": "kpk", "board": 6}, "environment.board: "),
        ({"opponent": "strong"}, "environment.opponent: "),
        ({"opponent": {"name": "softmax_dtm", "temperature": 0}}, "environment.opponent.temperature: "),
        ({"reward": "exact_match"}, "environment.reward"),
        ({"proxy": "random"}, "environment"),
        ({"reward": {"name": "coach", "weight": 0}}, "environment.reward.weight: "),
        ({"mate_in": [3, 1]}, "mate_in: give the least number of moves, from 1, and the most; found (3, 1)"),
        ({"mate_in": [0, 1]}, "mate_in: give the least number of moves, from 1, and the most; found (0, 1)"),
        ({"mate_in": [8, 9]}, "no position of KRK on 4 x 4 is mate in 8 to 9; the longest is mate in 7"),
        ({"mate_in": [1, 2], "start": ["3k/4/4/KR2 w - - 0 1"]}, "start and mate_in both say where to begin"),
        ({"max_steps": 0}, "environment.max_steps: "),
        ({"start": ["3k/4/4/KR2 w - - 0 1", "3k/4/4/KQ2 w - -"]}, "environment.start[1]: placement: is no position of"),
        ({"start": ["3k/4/4/KR2"]}, "environment.start[0]: FEN: has not four or six fields"),
        ({"start": ["3k/4/4/KX2 w - - 0 1"]}, "environment.start[0]: placement: rank 1 has an unknown sign 'X'"),
        ({"start": ["3k/4/4/KR2 x - - 0 1"]}, "environment.start[0]: side to move: is neither w nor b"),
        ({"start": ["3k/4/4/KR2 b - - 0 1"]}, "environment.start[0]: side to move: has a bare king"),
        ({"start": ["3k/4/4/KR2 w K - 0 1"]}, "environment.start[0]: castling: "),
        ({"start": ["3k/4/4/KR2 w - e3 0 1"]}, "environment.start[0]: en passant: "),
        ({"start": ["3k/4/4/KR2 w - - x 1"]}, "environment.start[0]: halfmove clock: "),
        ({"start": ["3k/4/4/KR2 w - - 0 0"]}, "environment.start[0]: fullmove number: "),
        ({"start": ["4/4/1k2/KR2 w - - 0 1"]}, "environment.start[0]: placement: the kings are adjacent"),
        ({"start": ["1k2/4/4/KR2 w - - 0 1"]}, "environment.start[0]: side to move: white could take the king on b4"),
        ({"start": ["8/8/8/8/8/8/8/KR5k w - - 0 1"]}, "environment.start[0]: placement: has a wrong number of ranks"),
        (
            {"name": "kpk", "board": 8, "start": ["K1k5/P7/8/8/8/8/8/8 w - - 0 1"]},
            "environment.start[0]: placement: is stalemate, found K1k5/P7/8/8/8/8/8/8 w - - 0 1; begin where there is",
        ),
    ],
    ids=lambda x: "" if isinstance(x, str) else ",".join(f"{k}={v}" for k, v in x.items()),
)
def test_what_makes_no_ending_is_refused(fields, said):
    assert said in refused(**fields)


def test_the_bounds_of_boards():
    assert KQK(board=4).ending().name == "KQK"
    assert KPK().board == 8

"""Rankings of chess moves as preference data in words: written, checked by the command, read and learned from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import rlhf_lab
from rlhf_lab.data.files import read_rankings
from rlhf_lab.data.ranking import Ranking, Turn
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.runner import start
from rlhf_lab.training.candidates import Candidates
from rlhf_lab_chess import KRK, ChessRecords
from rlhf_lab_chess.ending import ending
from rlhf_lab_chess.moves import side_by_side
from rlhf_lab_chess.states import read_move, read_state
from rlhf_lab_chess.words import encode, write_rankings

FEN = "3k/4/4/KR2 w - - 0 1"
PAIR = {"prompt": FEN, "chosen": "b1b4", "rejected": "a1a2"}
SPEC: dict[str, Any] = {
    "environment": {"name": "krk", "board": 4},
    "policy": {"name": "tabular_softmax", "critic": False},
    "preference": "dpo",
    "trainer": {"name": "offline", "minibatch": 8},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "gamma": 0.9,
    "budget": {"iterations": 3},
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows_of(path: str = "rows.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def written(*rows: object) -> str:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return "rows.jsonl"


def generated(**options: Any) -> Candidates:
    built = KRK(board=4).build(2, 1, Streams([0, 1]))
    return ChessRecords(**options).build(built, None, Streams([0, 1])["data"])  # type: ignore[arg-type]


def learner(**changes: Any) -> Any:
    return start(make_spec({**SPEC, **changes}, load_plugins())[0], [0])


# ---- words to candidates


def test_a_position_and_its_moves():
    found = ending("KRK", 4)
    state, _ = read_state(found, FEN)
    moves = [read_move(found, state, move) for move in ("b1b4", "a1a2", "b1c1")]
    read = encode([Ranking(FEN, ("b1b4", "a1a2")), Ranking(f" {FEN}", ("b1b4 ", "a1a2", "b1c1"))], found)
    assert read.inputs["prompts"].tolist() == [[state, state]]
    assert read.inputs["tokens"][0, ..., 0].tolist() == [[*moves[:2], moves[0]], moves]
    assert read.valid is not None
    assert read.valid.tolist() == [[[True, True, False], [True, True, True]]]
    assert read.lengths.tolist() == [[[1, 1, 1], [1, 1, 1]]]
    assert read.inputs["counted"].all()


def test_the_side_with_the_man_may_be_black():
    found = ending("KRK", 4)
    white = encode([Ranking(FEN, ("b1b4", "a1a2"))], found)
    black = encode([Ranking("kr2/4/4/3K b - - 0 1", ("b4b1", "a4a3"))], found)
    for name, x in white.inputs.items():
        assert torch.equal(x, black.inputs[name])


@pytest.mark.parametrize(
    ("prompt", "responses", "said"),
    [
        ("3k/4/4/KQ2 w - - 0 1", ("b1b4", "a1a2"), "prompt, placement: is no position of this ending, found Q"),
        ("3k/4/4/KR2", ("b1b4", "a1a2"), "prompt, FEN: has not four or six fields, found 1 in '3k/4/4/KR2'"),
        ("", ("b1b4", "a1a2"), "prompt, FEN: has not four or six fields, found 0 in ''"),
        (FEN, ("b1b4", "a1a3"), f"response, move: is illegal in {FEN}, found 'a1a3'; legal: "),
        (FEN, ("b1b4", "Ka2"), "response, move: is not written as two squares, found 'Ka2'"),
        ((Turn("user", FEN),), ("b1b4", "a1a2"), "prompt, messages: are no chess, found "),
        (FEN, ("b1b4", (Turn("assistant", "a1a2"),)), "response, messages: are no chess, found "),
    ],
)
def test_what_is_no_position_or_move_is_told_with_its_place(prompt, responses, said):
    good = Ranking(FEN, ("b1b4", "a1a2"), place="rows.jsonl:1")
    with pytest.raises(LabError) as caught:
        encode([good, Ranking(prompt, responses, place="rows.jsonl:2")], ending("KRK", 4))
    assert str(caught.value).startswith(f"rows.jsonl:2: {said}")


def test_no_rows():
    with pytest.raises(LabError, match="encode: there are no rows"):
        encode([], ending("KRK", 4))


# ---- candidates to words, and back


def test_pairs_are_written_as_chosen_and_rejected():
    found = generated(rows=40)
    write_rankings("rows.jsonl", ending("KRK", 4), found, run=1)
    assert all(set(row) == {"prompt", "chosen", "rejected"} for row in rows_of())
    back = encode(list(read_rankings("rows.jsonl")), ending("KRK", 4))
    for name, x in found.inputs.items():
        assert torch.equal(back.inputs[name][0], x[1])


@pytest.mark.parametrize(
    ("options", "preference"),
    [
        ({}, "dpo"),
        ({"candidates": 3}, {"name": "dpo", "likelihood": "plackett_luce"}),
        ({"candidates": 8}, {"name": "dpo", "likelihood": "plackett_luce"}),  # some positions have fewer moves
        ({"temperature": 0.0}, {"name": "dpo", "likelihood": "davidson"}),
        ({"temperature": 0.0, "distinct": True, "candidates": 4}, {"name": "dpo", "likelihood": "plackett_luce"}),
    ],
)
def test_what_is_drawn_is_learned_alike_from_a_file(options, preference):
    data = {"name": "chess_records", "rows": 40, **options}
    drawn = learner(data=data, preference=preference)
    write_rankings("rows.jsonl", drawn.environment.ending, drawn.data)
    read = learner(data={"name": "preference_file", "path": "rows.jsonl"}, preference=preference)
    valid = drawn.data.valid
    if drawn.data.ranks is not None:
        there = torch.ones_like(drawn.data.lengths, dtype=torch.bool) if valid is None else valid
        assert torch.equal(read.data.ranks[there], drawn.data.ranks[there])
    assert (valid is None) == (read.data.valid is None)
    assert valid is None or torch.equal(valid, read.data.valid)
    for _ in range(3):
        assert torch.equal(read.step(0.0)["loss"], drawn.step(0.0)["loss"])


def test_ties_are_written_as_equal_ranks():
    found = generated(rows=60, candidates=4, temperature=0.0)
    write_rankings("rows.jsonl", ending("KRK", 4), found)
    rows = rows_of()
    assert [row["ranking"] for row in rows] == (found.ranks[0] + 1).tolist()  # type: ignore[index]
    assert any(len(set(row["ranking"])) < 4 for row in rows)


def test_rows_of_one_move_say_nothing():
    found = ending("KRK", 4)
    state, _ = read_state(found, FEN)
    slots = torch.tensor([[[read_move(found, state, move) for move in ("b1b4", "a1a2")]]])
    for valid, rows in (([True, True], [PAIR]), ([True, False], [])):
        rankings = side_by_side(torch.tensor([[state]]), slots, valid=torch.tensor([[valid]]))
        if rows:
            write_rankings("rows.jsonl", found, rankings)
            assert rows_of() == rows
        else:
            with pytest.raises(LabError, match=r"cannot write rows\.jsonl: no position has two moves to be compared"):
                write_rankings("rows.jsonl", found, rankings)
    assert rows_of() == [PAIR]  # what was there before
    with pytest.raises(LabError, match="no position has two moves"):
        write_rankings("rows.jsonl", found, generated(rows=5, form="played"))


def test_what_cannot_be_written_leaves_what_there_was():
    Path("folder").mkdir()
    with pytest.raises(LabError, match="cannot write folder: Is a directory"):
        write_rankings("folder", ending("KRK", 4), generated(rows=5))


# ---- the command, and a run


def test_the_command_checks_a_file(command):
    write_rankings(written(), ending("KRK", 4), generated(rows=30, candidates=3))
    code, printed, _ = command("data", "rows.jsonl")
    assert code == 0
    assert "rankings: prompt, responses, ranking" in printed
    assert "30 read, 30 used, 0 skipped" in printed


def test_a_policy_prefers_what_a_file_prefers():
    spec = {**SPEC, "data": {"name": "preference_file", "path": written(PAIR)}, "budget": {"iterations": 20}}
    (arm,) = rlhf_lab.run(spec).arms
    margin = arm.curves["margin"][:, 0]
    assert margin[0] == 0  # at first the policy is its reference
    assert margin[-1] > margin[0]
    assert arm.curves["loss"][-1, 0] < arm.curves["loss"][0, 0]


def test_what_a_file_says_wrong_is_told_by_line():
    data = {"name": "preference_file", "path": written(PAIR, PAIR | {"rejected": "a1a3"})}
    with pytest.raises(LabError, match=rf"^rows\.jsonl:2: response, move: is illegal in {FEN}, found 'a1a3'"):
        learner(data=data)
    assert learner(data=data | {"on_bad_row": "skip"}).data.rows == 1


def test_games_are_no_responses_to_be_sampled():
    with pytest.raises(LabError, match="environment 'krk': its episodes are no responses to prompts"):
        learner(trainer={"name": "online_preference", "episodes": 8}, data=None)

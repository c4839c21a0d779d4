"""Records of chess endings from files, options that make no data, and the trainers that learn from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import rlhf_lab
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.runner import start
from rlhf_lab.training.candidates import Candidates
from rlhf_lab_chess import KRK, ChessRecords
from rlhf_lab_chess.environment import EndingEnvironment
from rlhf_lab_chess.play import play
from rlhf_lab_chess.players import move_worths, player
from rlhf_lab_chess.records import Game, write_games
from rlhf_lab_chess.states import read_state

# K b1, R a1, k d4 on 4 x 4: seven legal moves
FEN = "3k/4/4/RK2 w - - 0 1"
SMALL = KRK(board=4, gamma=0.9)


def records(environment: EndingEnvironment, seeds: tuple[int, ...] = (0,), **options: Any) -> Candidates:
    streams = Streams(seeds)
    built = environment.build(len(seeds), 1, streams["environment"])
    return ChessRecords(**options).build(built, None, streams["data"])  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ---- from a file


def written(count: int = 30) -> list[Game]:
    built = SMALL.build(1, 1, Streams([9]))
    games = play(built, player(built.ending, 1.0), count, Streams([9]))
    write_games("games.txt", built.ending, games)
    return games


def test_games_in_a_file_are_the_same_for_all_runs():
    games = written()
    states = [state for game in games for state in game.states]
    slots = [slot for game in games for slot in game.slots]
    played = records(SMALL, (0, 1, 2), rows=len(states), path="games.txt", form="played")
    assert played.inputs["prompts"].tolist() == [states] * 3
    assert played.inputs["tokens"][..., 0, 0].tolist() == [slots] * 3
    ranked = records(SMALL, (0, 1), rows=50, path="games.txt", candidates=3)
    assert ranked.inputs["prompts"].tolist() == [states[:50]] * 2
    tokens = ranked.inputs["tokens"][..., 0]
    assert (tokens == torch.tensor(slots[:50])[:, None]).any(-1).all()
    assert not torch.equal(tokens[0], tokens[1])  # the annotator's luck is each run's own


def test_a_file_with_too_few_positions():
    games = written(3)
    count = sum(len(game.slots) for game in games)
    said = f"data.rows: 1,000 positions are asked for, and games.txt holds {count}; lower rows, or add games"
    with pytest.raises(LabError) as caught:
        records(SMALL, path="games.txt")
    assert str(caught.value) == said


SPEC: dict[str, Any] = {
    "environment": {"name": "krk", "board": 4},
    "policy": {"name": "tabular_softmax", "critic": False},
    "data": {"name": "chess_records", "rows": 64},
    "preference": "dpo",
    "trainer": {"name": "offline", "minibatch": 16},
    "optimizer": {"name": "adam", "lr": 0.05},
    "gamma": 0.9,
    "budget": {"iterations": 6},
}


PL_DPO = {"name": "dpo", "likelihood": "plackett_luce"}


def learner(**changes: Any) -> Any:
    return start(make_spec({**SPEC, **changes}, load_plugins())[0], [0, 1])


def test_a_study_knows_the_file_it_learned_from():
    written()
    study = {
        "title": "Of a file of games",
        "spec": SPEC | {"data": {"name": "chess_records", "rows": 64, "path": "games.txt"}},
        "seeds": 1,
        "measure": ["learning_curve"],
    }
    first = rlhf_lab.compare(study, out="out")
    assert [each["name"] for each in first.provenance["files"]] == ["games.txt"]
    written(31)
    with pytest.raises(LabError, match=r"^out holds arms computed before games\.txt had its present content"):
        rlhf_lab.compare(study, out="out")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"rows": 0}, "data.rows: "),
        ({"candidates": 1}, "data.candidates: "),
        ({"temperature": -1}, "data.temperature: "),
        ({"temperature": float("nan")}, "data.temperature: "),
        ({"strength": float("inf")}, "data.strength"),
        ({"strength": []}, "strength: give at least one number"),
        ({"strength": "strong"}, "data.strength"),
        ({"form": "pairs"}, "data.form: "),
        ({"utility": "moves"}, "data.utility: "),
        ({"form": "played", "temperature": 2.0}, "temperature: form: played has no ranking; leave it out"),
        ({"form": "played", "candidates": 3, "distinct": True}, "candidates: form: played has no ranking"),
        ({"path": "games.txt", "strength": 1.0}, "strength: the games stand in a file; leave it out"),
        ({"path": "none.txt"}, "none.txt"),
        ({"pathh": "games.txt"}, "path"),
    ],
)
def test_options_that_make_no_data(data, said):
    with pytest.raises(LabError) as caught:
        learner(data={"name": "chess_records", **data})
    assert said in str(caught.value)


def test_records_need_an_ending():
    with pytest.raises(LabError, match="data: 'chess_records' are records of chess endings; use environment krk, kqk"):
        learner(environment={"name": "sequences", "vocabulary": 3, "length": 3}, policy="tabular_autoregressive")


def test_bad_lines_are_told_before_anything_runs():
    Path("games.txt").write_text(f"{FEN}; b1b2 d4d3; *\n{FEN}; b1c3; *\n", encoding="utf-8")
    with pytest.raises(LabError, match=r"games\.txt:2: move 1: is illegal in 3k/4/4/RK2 w - - 0 1, found 'b1c3'"):
        learner(data={"name": "chess_records", "path": "games.txt", "rows": 2})


# ---- learning


@pytest.mark.parametrize("policy", ["tabular_softmax", "linear_softmax"])
@pytest.mark.parametrize(
    ("data", "preference"),
    [
        ({}, "dpo"),
        ({"temperature": 0, "distinct": True}, "dpo"),
        ({"candidates": 4}, PL_DPO),
        ({"candidates": 9, "distinct": True}, PL_DPO),
        ({"form": "played"}, "sft"),
        ({"temperature": 0}, {"name": "dpo", "likelihood": "davidson"}),
    ],
)
def test_policies_learn_from_records(policy, data, preference):
    spec = {
        **SPEC,
        "policy": {"name": policy, "critic": False},
        "data": {"name": "chess_records", "rows": 512, "strength": 3.0, **data},
        "preference": preference,
        "trainer": {"name": "offline", "minibatch": 512},  # all rows, so that losses can be compared
        "budget": {"iterations": 40},
    }
    (arm,) = rlhf_lab.run(spec).arms
    loss, value = arm.curves["loss"][:, 0], arm.curves["exact_return"][:, 0]
    assert loss[-1] < loss[0]
    # records of a strong player, or labels of one who sees the mate, are better than moves at random
    assert value[-1] > 1.5 * arm.references["exact_return"]["uniform"]


def test_a_policy_of_records_never_plays_an_illegal_move():
    trained = learner(data={"name": "chess_records", "rows": 256, "candidates": 9}, preference=PL_DPO)
    for _ in range(5):
        trained.step(0.0)
    world = trained.environment.exact()
    mask = (world.legal | world.terminal[:, None]).expand(2, -1, -1)
    states = torch.arange(len(world.terminal)).expand(2, -1)
    policy = trained.actor.action_log_probs(states, mask).exp()
    assert not policy[~mask].any()


def test_a_reward_model_recovers_the_utility():
    # rankings of one position from u / T, T = 2: fitted preferences are u / T up to a shift, within three standard
    # errors, which for 8,000 rankings of 3 of 7 moves are about 0.04
    found = learner(
        environment={"name": "krk", "board": 4, "start": [FEN], "max_steps": 1},
        data={"name": "chess_records", "rows": 8000, "candidates": 3, "temperature": 2.0, "strength": 0.0},
        preference=None,
        reward_model="plackett_luce",
        trainer={"name": "reward_model", "minibatch": 8000},
        optimizer={"name": "adam", "lr": 0.2},
    )
    for _ in range(80):
        found.step(0.0)
    ending = found.environment.ending
    state, _ = read_state(ending, FEN)
    u = torch.from_numpy(move_worths(ending))[state]
    legal = u.isfinite().nonzero()[:, 0]
    every = Candidates(
        {
            "prompts": torch.full((2, 1), state),
            "prefixes": torch.zeros(2, 1, len(legal), 1, dtype=torch.int64),
            "tokens": legal.expand(2, 1, -1)[..., None],
            "counted": torch.ones(2, 1, len(legal), 1, dtype=torch.bool),
        },
        torch.ones(2, 1, len(legal), dtype=torch.int64),
    )
    fitted = found.actor.rewards(every).detach()[:, 0].double()
    apart = (fitted - fitted.mean(-1, keepdim=True)) - (u[legal] / 2 - (u[legal] / 2).mean())
    assert float(apart.abs().max()) < 0.12

"""Players of known strength and the games they play, and the table's verdict of every move."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlhf_lab.random import Streams
from rlhf_lab_chess import KQK, KRK, OptimalDefence
from rlhf_lab_chess.ending import ending
from rlhf_lab_chess.environment import EndingEnvironment
from rlhf_lab_chess.play import play, visited
from rlhf_lab_chess.players import BEST, BLUNDER, INACCURACY, game_verdicts, move_verdicts, move_worths, player
from rlhf_lab_chess.records import Game, read_games
from rlhf_lab_chess.states import read_move, read_state, write_state
from rlhf_lab_chess.successors import NONE

FEN = "4/3R/2K1/k3 w - - 0 1"


def games_of(environment: EndingEnvironment, strength: float, count: int) -> list[Game]:
    built = environment.build(1, 1, Streams([5]))
    return play(built, player(built.ending, strength), count, Streams([5]))


def test_verdicts_by_hand():
    # K c2, R d3, k a1 on 4 x 4: Ra3 mates, Rd4 mates a move later
    found = ending("KRK", 4)
    state, _ = read_state(found, FEN)
    verdicts, worths = move_verdicts(found)[state], move_worths(found)[state]
    mate, delay = (read_move(found, state, move) for move in ("d3a3", "d3d4"))
    assert (verdicts[mate], worths[mate]) == (BEST, -1)
    assert (verdicts[delay], worths[delay]) == (INACCURACY, -2)
    assert (verdicts == BEST).sum() == 1
    assert ((verdicts == NONE) == (found.moves[state] == NONE)).all()
    assert (worths[found.moves[state] == NONE] == -np.inf).all()
    # K d4, R d2, k a1: on b2 nothing guards the rook
    state, _ = read_state(found, "3K/4/3R/k3 w - - 0 1")
    assert move_verdicts(found)[state, read_move(found, state, "d2b2")] == BLUNDER


@pytest.mark.parametrize("black", [False, True], ids=["white", "black"])
def test_the_moves_of_a_recorded_game_have_verdicts(black, tmp_path):
    # the positions above: Rd4 delays, and after Ka2 Ra4 mates (c2 guards b1, b2 and b3; a1 is the rook's);
    # Ra3 mates at once; Rb2 loses the rook. Below with colours exchanged: ranks 1 to 4 become 4 to 1.
    lines = [
        "4/3R/2K1/k3 w - - 0 1; d3d4 a1a2 d4a4; 1-0",
        "4/3R/2K1/k3 w - - 0 1; d3a3; 1-0",
        "3K/4/3R/k3 w - - 0 1; d2b2 a1b2; 1/2-1/2",
    ]
    if black:
        lines = [
            "K3/2k1/3r/4 b - - 0 1; d2d1 a4a3 d1a1; 0-1",
            "K3/2k1/3r/4 b - - 0 1; d2a2; 0-1",
            "K3/3r/4/3k b - - 0 1; d3b3 a4b3; 1/2-1/2",
        ]
    path = tmp_path / "games.txt"
    path.write_text("\n".join(lines))
    found = ending("KRK", 4)
    assert game_verdicts(found, read_games(path, found)) == [["inaccuracy", "best"], ["best"], ["blunder"]]


def test_a_draw_is_worth_one_move_more_than_the_longest_mate_behind_a_move():
    found = ending("KRK", 4)
    worths = move_worths(found)
    behind = np.append(found.lost, [-1, -1])[found.moves]  # DEAD and NONE take the last places
    legal = found.moves != NONE
    assert (worths[legal & (behind >= 0)] == -(behind[legal & (behind >= 0)] // 2 + 1)).all()
    assert set(worths[legal & (behind < 0)]) == {worths[legal & (behind >= 0)].min() - 1}


def test_in_a_drawn_position_every_move_is_best():
    found = ending("KPK")
    drawn = (found.won < 0) & (found.moves != NONE).any(1)
    verdicts = move_verdicts(found)
    assert drawn.sum() > 1000
    assert (verdicts[drawn][found.moves[drawn] != NONE] == BEST).all()


@pytest.mark.parametrize("strength", [-0.5, 0.0, 0.7, 3.0])
def test_a_player_prefers_by_strength(strength):
    # log π(a|s) - log π(b|s) = strength (u(a) - u(b)), and nothing that is not legal
    found = ending("KRK", 4)
    policy, worths = player(found, strength).numpy(), move_worths(found)
    assert np.allclose(policy.sum(1), 1, rtol=0, atol=1e-12)
    legal = found.moves != NONE
    assert not policy[:-3][~legal].any()
    logs = np.log(policy[:-3], where=legal, out=np.zeros_like(worths)) - strength * np.where(legal, worths, 0)
    spread = np.where(legal, logs, -np.inf).max(1) - np.where(legal, logs, np.inf).min(1)
    assert spread.max() < 1e-9


def test_stronger_players_are_worth_more():
    world = KRK(board=4, gamma=0.9, opponent=OptimalDefence()).world()
    found = ending("KRK", 4)
    values = [float(world.expected_return(player(found, strength))) for strength in (-1, 0, 0.5, 1, 2, 4, 20)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(float(world.optimal_return()), abs=1e-4)
    uniform = float(world.expected_return(world.uniform_policy()))
    assert values[1] == pytest.approx(uniform, abs=1e-12)


def test_positions_that_are_visited_follow_each_other():
    # table by table: behind each position stands one that the move and an answer lead to, unless the game is over
    environment = KRK(board=4, max_steps=8)
    built = environment.build(2, 1, Streams([1, 2]))
    found = built.ending
    states, slots = visited(built, player(found, 1.0), 640, Streams([1, 2]))
    assert states.shape == slots.shape == (2, 640)
    assert (found.moves[states.numpy(), slots.numpy()] != NONE).all()
    follows = 0
    for run in range(2):
        for row in range(639):
            position = found.moves[states[run, row], slots[run, row]]
            follows += int(states[run, row + 1]) in found.replies[position].tolist()
    assert 0.7 < follows / 1278 < 1
    alone = visited(environment.build(1, 1, Streams([2])), player(found, 1.0), 640, Streams([2]))
    assert torch.equal(alone[0][0], states[1])
    assert torch.equal(alone[1][0], slots[1])


def test_the_next_game_does_not_depend_on_the_last_move():
    # one number must not choose both: correlate a move's quantile with the state behind it, the first of another game
    built = KRK(board=4, max_steps=1).build(1, 1, Streams([0]))
    states, slots = visited(built, player(built.ending, 0.0), 6400, Streams([3]))
    legal = built.exact().legal[states[0]]
    before = (legal & (torch.arange(legal.shape[1]) < slots[0, :, None])).sum(-1) / legal.sum(-1)
    for shift in (0, 1):
        pairs = torch.stack([before[: 6400 - shift].double(), states[0, shift:].double()])
        assert abs(float(torch.corrcoef(pairs)[0, 1])) < 3 / 80


def test_games_are_played_by_the_rules_and_end_or_are_cut_off():
    found = ending("KQK", 4)
    games = games_of(KQK(board=4, max_steps=5), 0.3, 200)
    lengths = [len(game.slots) for game in games]
    assert max(lengths) == 5
    assert min(lengths) == 1
    for game in games:
        assert len(game.slots) - len(game.answers) in (0, 1)
        for i, answer in enumerate(game.answers[: len(game.slots) - 1]):
            position = found.moves[game.states[i], game.slots[i]]
            assert found.replies[position, answer] == game.states[i + 1]
    assert write_state(found, games[0].states[0]).endswith(" w - - 0 1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "unique", "tied", "lost", "distinct"),
    [("KQK", 0.37, 0.35, 0.073, 4.6), ("KRK", 0.56, 0.29, 0.078, 5.0)],
)
def test_how_often_moves_are_best_tied_and_blunders(name, unique, tied, lost, distinct):
    # measured before this code was written, by another program, to two digits
    found = ending(name)
    verdicts, worths = move_verdicts(found), move_worths(found)
    legal = found.moves != NONE
    assert ((verdicts == BEST).sum(1) == 1).mean() == pytest.approx(unique, abs=0.005)
    assert (verdicts == BLUNDER).sum() / legal.sum() == pytest.approx(lost, abs=0.0005)
    # moves of a position by their worth: how many there are of each
    classes = [(worths == u).sum(1) for u in np.unique(worths[legal])]
    assert np.mean(sum((n > 0).astype(int) for n in classes)) == pytest.approx(distinct, abs=0.05)
    pairs, several = legal.sum(1) * (legal.sum(1) - 1) / 2, legal.sum(1) > 1
    equal = sum(n * (n - 1) / 2 for n in classes)
    assert (equal[several] / pairs[several]).mean() == pytest.approx(tied, abs=0.005)

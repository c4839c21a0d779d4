"""Chess endings as Gymnasium's environments, judged by its checker, by python-chess, the exact world, and by hand."""

from __future__ import annotations

import dataclasses
import itertools
import math

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Discrete
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import rlhf_lab
from rlhf_lab.errors import LabError
from rlhf_lab.registry import load_plugins
from rlhf_lab_chess import KRK, MaskInObs, OptimalDefence, VectorMaskInObs
from rlhf_lab_chess.ending import ending
from rlhf_lab_chess.geometry import QUEEN, Board
from rlhf_lab_chess.notation import read_fen, write_uci
from rlhf_lab_chess.observation import observe
from rlhf_lab_chess.states import read_state
from rlhf_lab_chess.views import at_the_end

LARGE = [pytest.param("KQK-v0"), pytest.param("KRK-v0"), pytest.param("KPK-v0", marks=pytest.mark.slow)]
IDS = [*LARGE, *(f"{name}{side}-v0" for name in ("KQK", "KRK") for side in (4, 5, 6))]
COLORS = pytest.mark.parametrize("color", ["white", "black"])
MODES = pytest.mark.parametrize("vectorization", ["sync", "vector_entry_point"])

# The kings stand opposite each other on the first file; a rook that comes to the fourth rank mates.
MATE_IN_ONE = "k3/4/K3/3R w - - 0 1"
MIRRORED = "3r/k3/4/K3 b - - 0 1"
MATED = "k2R/4/K3/4 b - - 0 1"
MATING = 3 * Board(4).planes + 2  # from d1 (square 3) by direction 0 (north) and distance 3


def make(name="KRK4-v0", **fields):
    return gymnasium.make(f"rlhf_lab_chess:rlhf_lab/{name}", **fields)


def make_vec(count, name="KRK4-v0", vectorization="vector_entry_point", mode=AutoresetMode.SAME_STEP, **fields):
    options = {"autoreset_mode": mode} if vectorization == "sync" else {}
    return gymnasium.make_vec(
        f"rlhf_lab_chess:rlhf_lab/{name}", count, vectorization_mode=vectorization, vector_kwargs=options, **fields
    )


def choose(masks, rng):
    """A legal action of each row, all equally likely."""
    return (rng.random(masks.shape) * masks).argmax(-1)


def uci_of(board, action, white, fen):
    """The move of an id, as the mover's colour writes it; a pawn on its last rank becomes a queen unless said so."""
    origin, target, promotion = board.decode(int(action))
    if not white:
        origin, target = board.mirror(origin), board.mirror(target)
    last = target // board.side == (board.side - 1 if white else 0)
    if last and not promotion and abs(read_fen(fen).men[origin]) == 1:
        promotion = QUEEN
    return write_uci(board, origin, target, promotion)


# Gymnasium's own checks


@pytest.mark.parametrize("name", IDS)
def test_gymnasium_accepts_the_environment(name):
    # the checker takes no notice of masks, so that its moves are illegal; warnings are errors
    check_env(make(name, illegal="lose", render_mode="ansi").unwrapped)


def test_gymnasium_accepts_legal_moves():
    class Legal(Discrete):
        def sample(self, mask=None, probability=None):
            return np.int64(MATING)

    env = make(start=("2k1/4/K3/3R w - - 0 1",)).unwrapped  # Rd4+ is legal there and ends nothing
    env.action_space = Legal(int(env.action_space.n))
    check_env(env)


def test_reset_with_a_seed_repeats_the_game():
    def game(seed):
        env, rng = make("KQK5-v0", max_steps=20), np.random.default_rng(1)
        _, info = env.reset(seed=seed)
        fens, over = [info["fen"]], False
        while not over:
            _, _, terminated, truncated, info = env.step(choose(info["action_mask"], rng))
            over = terminated or truncated
            fens.append(info["fen"])
        return fens

    assert game(3) == game(3)
    assert game(3) != game(4)


# The rules, by python-chess


@pytest.mark.parametrize("name", LARGE)
def test_the_mask_is_what_python_chess_allows(name):
    chess = pytest.importorskip("chess")
    board = Board(8)
    envs = {color: make(name, color=color) for color in ("white", "black")}
    for seed, color in itertools.product(range(40), envs):
        _, info = envs[color].reset(seed=seed)
        legal = {uci_of(board, action, color == "white", info["fen"]) for action in np.flatnonzero(info["action_mask"])}
        assert legal == {move.uci() for move in chess.Board(info["fen"]).legal_moves}


@pytest.mark.parametrize(
    ("name", "fields", "games"),
    [
        ("KQK-v0", {"mate_in": (1, 3)}, 40),
        ("KRK-v0", {"mate_in": (1, 2)}, 60),
        pytest.param("KPK-v0", {"mate_in": (1, 5)}, 300, marks=pytest.mark.slow),
    ],
)
def test_python_chess_plays_the_same_games(name, fields, games):
    chess = pytest.importorskip("chess")
    rng, board, found = np.random.default_rng(5), Board(8), set()
    envs = {color: make(name, color=color, max_steps=12, **fields) for color in ("white", "black")}
    for seed, color in itertools.product(range(games), envs):
        env = envs[color]
        _, info = env.reset(seed=seed)
        referee = chess.Board(info["fen"])
        while not info["termination"]:
            action = choose(info["action_mask"], rng)
            referee.push_uci(uci_of(board, action, color == "white", info["fen"]))
            observation, reward, terminated, truncated, info = env.step(action)
            placement = info["fen"].split()[0]
            if referee.board_fen() != placement:  # the opponent has answered
                referee.push(next(move for move in referee.legal_moves if after(referee, move) == placement))
            assert referee.board_fen() == placement
            assert referee.turn == (" w " in info["fen"])
            said = info["termination"]
            assert (said == "checkmate") == referee.is_checkmate() == (reward == 1)
            assert (said == "stalemate") == referee.is_stalemate()
            assert (said == "insufficient") == referee.is_insufficient_material()
            assert terminated == referee.is_game_over() and truncated == (said == "max_steps")
            assert np.array_equal(observation, seen(info["fen"], color))
        found.add(said)
    assert found == {"checkmate", "stalemate", "insufficient", "max_steps"}


def after(board, move):
    board.push(move)
    placement = board.board_fen()
    board.pop()
    return placement


def seen(fen, color):
    """The planes of a position in the learner's view, also where the opponent is to move."""
    return observe(dataclasses.replace(read_fen(fen), white_to_move=color == "white"))


def test_a_pawn_that_becomes_a_knight_is_seen_as_one():
    # a8=N leaves bare minor pieces: the last position has a knight on a8 (56) and the bare king to move
    found = ending("KPK")
    state, _ = read_state(found, "8/P7/8/8/8/2K5/8/6k1 w - - 0 1")
    slot = next(slot for slot in range(8, 13) if found.moves[state, slot] != -1 and found.move(state, slot)[2] == "N")
    views = at_the_end(found, np.array([state]), np.array([slot]), np.array([found.states - 1]))
    assert views.position(0, 8) == read_fen("N7/8/8/8/8/2K5/8/6k1 b - - 0 1")
    assert np.array_equal(views.planes(8)[0], seen("N7/8/8/8/8/2K5/8/6k1 b - - 0 1", "white"))


# The end of a game


@MODES
def test_a_new_game_begins_in_the_step_that_ends_one(vectorization):
    envs = make_vec(2, vectorization=vectorization, start=(MATE_IN_ONE,))
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    fresh, begun = envs.reset(seed=0)
    waiting = int(np.flatnonzero(begun["action_mask"][1])[0])
    observations, rewards, terminated, truncated, info = envs.step(np.array([MATING, waiting]))
    assert rewards.tolist() == [1, 0] and rewards.dtype == np.float64
    assert terminated.tolist() == [True, False] and truncated.tolist() == [False, False]
    # the mated position stands in final_obs, the next game's first in the observation
    assert np.array_equal(info["final_obs"][0], seen(MATED, "white"))
    assert info["final_obs"][1] is None
    assert np.array_equal(observations[0], fresh[0]) and np.array_equal(fresh[0], seen(MATE_IN_ONE, "white"))
    assert not np.array_equal(observations[1], fresh[1])
    assert np.array_equal(info["action_mask"][0], begun["action_mask"][0])
    assert info["termination"].tolist() == ["", ""]
    final = info["final_info"]
    assert final["termination"].tolist() == ["checkmate", None]
    assert bool(final["action_mask"][0].all())  # nobody acts at the end: no distribution is empty
    for key in ("_final_obs", "_final_info"):
        assert info[key].tolist() == [True, False]
    for key in ("_action_mask", "_termination"):
        assert info[key].tolist() == [True, True] and final[key].tolist() == [True, False]


def test_the_vector_environment_tells_what_a_sync_one_does():
    # but for the FEN, which the vector environment gives when asked
    found = {}
    for vectorization in ("sync", "vector_entry_point"):
        envs = make_vec(2, vectorization=vectorization, start=(MATE_IN_ONE,))
        infos = [envs.reset(seed=0)[1], envs.step(np.array([MATING, MATING]))[4]]
        infos.append(infos[1]["final_info"])
        found[vectorization] = [
            {key: (value.dtype, value.shape) for key, value in info.items() if "fen" not in key and key != "final_info"}
            for info in infos
        ]
    assert found["sync"] == found["vector_entry_point"]


def test_the_end_of_a_single_game():
    env = make(start=(MATE_IN_ONE,)).unwrapped
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(MATING)
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert (info["termination"], info["fen"]) == ("checkmate", MATED)
    assert np.array_equal(observation, seen(MATED, "white"))
    assert bool(info["action_mask"].all()) and bool(env.action_masks().all())
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(MATING)
    _, info = env.reset()
    assert (info["termination"], info["fen"]) == ("", MATE_IN_ONE)


def test_no_step_before_the_first_reset():
    with pytest.raises(ResetNeeded, match="call reset"):
        make().unwrapped.step(0)
    with pytest.raises(ResetNeeded, match="call reset"):
        make_vec(2).step(np.array([0, 0]))


@MODES
def test_a_game_is_truncated_after_max_steps(vectorization):
    envs, rng = make_vec(3, "KQK6-v0", vectorization, max_steps=2, mate_in=(6, 6)), np.random.default_rng(0)
    _, info = envs.reset(seed=1)
    ages, cuts = np.zeros(3, dtype=int), 0
    for _ in range(20):
        _, _, terminated, truncated, info = envs.step(choose(info["action_mask"], rng))
        ages += 1
        assert np.array_equal(truncated, (ages == 2) & ~terminated)
        for row in np.flatnonzero(truncated):
            cuts += 1
            final = info["final_info"]
            assert final["termination"][row] == "max_steps"
            # the position goes on: its own moves, by which a value can be bootstrapped
            fen = read_state_of(info["final_obs"][row])
            assert np.array_equal(final["action_mask"][row], legal_of("KQK", 6, fen))
        ages[terminated | truncated] = 0
    assert cuts > 10


def read_state_of(planes):
    """The number of the state of KQK on 6 x 6 of an observation."""
    king, queen, bare = (int(planes[plane].argmax()) for plane in (5, 4, 11))
    return ending("KQK", 6).state(king, "Q", queen, bare)


def legal_of(name, side, state):
    """The mask of a state, move by move."""
    found = ending(name, side)
    mask = np.zeros(found.board.actions, dtype=np.int8)
    for slot in np.flatnonzero(found.moves[state] != -1).tolist():
        origin, target, _ = found.move(state, slot)
        mask[found.board.encode(origin, target)] = 1
    return mask


# Many games at once


class Draws:
    """Numbers that were written down before: row by row, one column per question."""

    def __init__(self, numbers):
        self.numbers, self.asked = numbers, np.zeros(len(numbers), dtype=int)

    def of(self, rows):
        drawn = self.numbers[rows, self.asked[rows]]
        self.asked[rows] += 1
        return drawn


def test_the_vector_environment_plays_the_games_of_single_ones():
    # each game has its own numbers; the vector environment asks for all games, then for those that begin anew
    numbers, count = np.random.default_rng(0).random((4, 400)), 4
    ended = np.zeros(count, dtype=bool)

    class Shared(Draws):
        def random(self, size):
            return self.of(np.arange(count) if size == count else np.flatnonzero(ended))

    class Own(Draws):
        def random(self, size):
            return self.of(np.array([0]))

    envs = make_vec(count, "KQK4-v0", max_steps=6)
    envs.np_random = Shared(numbers)
    singles = [make("KQK4-v0", max_steps=6).unwrapped for _ in range(count)]
    for env, own in zip(singles, numbers, strict=True):
        env.np_random = Own(own[None])
    observations, info = envs.reset()
    assert np.array_equal(observations, np.stack([env.reset()[0] for env in singles]))
    rng, games = np.random.default_rng(7), 0
    for _ in range(60):
        actions = choose(info["action_mask"], rng)
        expected = [env.step(action) for env, action in zip(singles, actions, strict=True)]
        ended[:] = [terminated or truncated for _, _, terminated, truncated, _ in expected]
        if ended.sum() == count:  # the numbers could not be told apart
            break
        observations, rewards, terminated, truncated, info = envs.step(actions)
        for row, (planes, reward, over, cut, single) in enumerate(expected):
            assert (rewards[row], terminated[row], truncated[row]) == (reward, over, cut)
            assert (row in np.flatnonzero(info.get("_final_obs", []))) == (over or cut)
            if over or cut:
                assert np.array_equal(info["final_obs"][row], planes)
                assert info["final_info"]["termination"][row] == single["termination"]
                assert np.array_equal(info["final_info"]["action_mask"][row], single["action_mask"])
                games += 1
                planes, single = singles[row].reset()
            assert np.array_equal(observations[row], planes)
            assert np.array_equal(info["action_mask"][row], single["action_mask"])
            assert envs.unwrapped.fens()[row] == single["fen"]
    assert games > 30


def test_random_play_wins_as_often_as_the_exact_world_says():
    # whole games from 1,024 boards, the first of each so that long ones count, too; 4.5 standard errors
    component = KRK(board=4)
    world = component.world()
    expected = float(world.expected_return(world.uniform_policy()))
    envs, rng, count = make_vec(1024, max_steps=10_000), np.random.default_rng(3), 1024
    envs.reset(seed=11)
    won, over = np.zeros(count), np.zeros(count, dtype=bool)
    while not over.all():
        ids = envs.unwrapped.legal_ids()
        chosen = (rng.random(ids.shape) * (ids >= 0)).argmax(1)
        _, rewards, terminated, truncated, _ = envs.step(ids[np.arange(count), chosen])
        assert not truncated.any()
        won += rewards * ~over
        over |= terminated
    assert abs(won.mean() - expected) < 4.5 * np.sqrt(expected * (1 - expected) / count)


def test_legal_ids_are_those_of_the_mask():
    envs = make_vec(50, "KQK6-v0")
    _, info = envs.reset(seed=4)
    for ids, mask in zip(envs.unwrapped.legal_ids(), info["action_mask"], strict=True):
        assert sorted(ids[ids >= 0].tolist()) == np.flatnonzero(mask).tolist()


def test_environments_of_equal_arguments_share_their_tables():
    first, second, other = (make("KRK5-v0", opponent=name).unwrapped for name in ("random", "random", "optimal"))
    assert first._boards._tables is second._boards._tables
    assert first._boards._tables is not other._boards._tables


# Arguments


def test_the_opponent_is_the_one_that_was_asked_for():
    # against the optimal defence every reply delays mate as long as any other, or draws
    found, chances = ending("KRK", 5), OptimalDefence()(ending("KRK", 5))
    rng, replies = np.random.default_rng(0), 0
    for opponent in ("optimal", {"name": "epsilon_optimal", "epsilon": 0.0}, OptimalDefence()):
        env = make("KRK5-v0", opponent=opponent)
        _, info = env.reset(seed=2)
        for _ in range(30):
            state, action = read_state(found, info["fen"])[0], choose(info["action_mask"], rng)
            origin, target, _ = found.board.decode(int(action))
            slot = next(s for s in range(found.moves.shape[1]) if found.moves[state, s] != -1
                        and found.move(state, s)[:2] == (origin, target))  # fmt: skip
            _, _, terminated, truncated, info = env.step(action)
            if terminated or truncated:
                _, info = env.reset()
                continue
            behind = found.moves[state, slot]
            answer = int(np.flatnonzero(found.replies[behind] == read_state(found, info["fen"])[0])[0])
            assert chances[behind, answer] > 0
            replies += 1
    assert replies > 50


def test_the_reward_is_the_one_that_was_asked_for():
    env = make(reward={"name": "step_cost", "cost": 0.25, "win": 3.0}, start=(MATE_IN_ONE,))
    _, info = env.reset(seed=0)
    waiting = next(a for a in np.flatnonzero(info["action_mask"]) if a != MATING)
    assert env.step(waiting)[1] == -0.25
    env.reset()
    assert env.step(MATING)[1] == 2.75  # the move has its price, too


@COLORS
def test_colours_give_the_same_observations_and_masks(color):
    # a state is the same with colours exchanged; only FEN and drawing tell them apart
    env, white = make("KQK5-v0", color=color), make("KQK5-v0")
    rng = np.random.default_rng(0)
    (mine, info), (other, theirs) = env.reset(seed=9), white.reset(seed=9)
    for _ in range(40):
        assert np.array_equal(mine, other) and np.array_equal(info["action_mask"], theirs["action_mask"])
        assert (info["fen"] == theirs["fen"]) == (color == "white")
        action = choose(info["action_mask"], rng)
        mine, _, terminated, truncated, info = env.step(action)
        other, *_, theirs = white.step(action)
        if terminated or truncated:
            (mine, info), (other, theirs) = env.reset(), white.reset()


def test_a_position_can_be_given_to_reset():
    env = make(color="black")
    observation, info = env.reset(options={"fen": MIRRORED})
    assert info["fen"] == MIRRORED
    assert np.array_equal(observation, seen(MIRRORED, "black"))
    envs = make_vec(3)
    observations, _ = envs.reset(options={"fen": MATE_IN_ONE})
    assert envs.unwrapped.fens() == [MATE_IN_ONE] * 3
    assert np.array_equal(observations, np.stack([seen(MATE_IN_ONE, "white")] * 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fen": "k3/4/K3 w - - 0 1"}, r"options\['fen'\]: placement: has a wrong number of ranks"),
        ({"fen": "2k1/4/K3/3Q w - - 0 1"}, r"options\['fen'\]: placement: is no position of this ending"),
        ({"fen": MIRRORED}, r"options\['fen'\]: black has the man and is to move in 3r/k3/4/K3 .*color='black'"),
        ({"fen": 7}, r"options\['fen'\]: expected a FEN, found 7"),
        ({"fne": MATE_IN_ONE}, "options: 'fne' is not possible. Did you mean 'fen'?"),
    ],
)
def test_bad_options_are_refused(options, message):
    for env in (make(), make_vec(2)):
        with pytest.raises(LabError, match=message):
            env.reset(options=options)


@pytest.mark.slow
def test_a_position_without_a_move_is_refused():
    # white's king in the corner before its own pawn, black's king beside them: white has no move
    fen = "K7/P1k5/8/8/8/8/8/8 w - - 0 1"
    with pytest.raises(LabError, match=r"options\['fen'\]: white has no legal move in K7/P1k5/8"):
        make("KPK-v0").reset(options={"fen": fen})
    with pytest.raises(LabError, match=r"environment.start\[0\]: white has no legal move in K7/P1k5/8"):
        make("KPK-v0", start=(fen,))


def test_no_games_are_refused():
    with pytest.raises(LabError, match="num_envs: expected at least one game, found 0"):
        make_vec(0)


@pytest.mark.parametrize(
    "fields",
    [
        {"opponent": "randm"},
        {"opponent": {"name": "epsilon_optimal", "epsilon": 2}},
        {"reward": {"name": "step_cost", "price": 1}},
        {"max_steps": 0},
        {"start": (MATE_IN_ONE,), "mate_in": (1, 2)},
        {"colour": "white"},
        {"board": 3},
    ],
)
def test_bad_arguments_are_refused_as_in_a_spec(fields):
    with pytest.raises(LabError) as told:
        load_plugins().create("environment", {"name": "krk", **fields})
    with pytest.raises(LabError) as found:
        make(**fields)
    assert str(found.value) == str(told.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ending": "KBK"}, "ending: 'KBK' is not possible. Did you mean"),
        ({"color": "red"}, "color: 'red' is not possible. Possible: black, white"),
        ({"illegal": "lost"}, "illegal: 'lost' is not possible. Did you mean 'lose'"),
        ({"proxy": "material"}, "proxy: an environment pays one reward; give it as reward"),
        ({"start": ("k3/4/K3 w - - 0 1",)}, r"environment.start\[0\]: placement: has a wrong number of ranks"),
        ({"start": (MATE_IN_ONE, MIRRORED)}, r"environment.start\[1\]: black has the man .*color='black'"),
        ({"mate_in": (9, 9)}, "environment.mate_in: no position of KRK on 4 x 4 is mate in 9 to 9"),
    ],
)
@MODES
def test_bad_arguments_are_refused(fields, message, vectorization):
    with pytest.raises(LabError, match=message):
        make_vec(2, vectorization=vectorization, **fields)


def test_a_bad_render_mode_is_refused():
    with (
        pytest.warns(UserWarning, match="not in the possible render_modes"),
        pytest.raises(LabError, match=r"render_mode: 'human' is not possible. Possible: ansi, svg"),
    ):
        make(render_mode="human")


# Illegal moves

# from c4 (14) by direction 5 (south-west): an empty square
EMPTY = 14 * Board(4).planes + 5 * 3


@pytest.mark.parametrize(
    ("color", "fen", "action", "message"),
    [
        # Rd1-a4: no man moves so, and nothing stands on c4
        ("white", MATE_IN_ONE, EMPTY, r"action 589 \(c4b3\) is illegal in k3/4/K3/3R w - - 0 1"),
        # a rook's step out of the board: from d1 to the east (direction 2, distance 1)
        ("white", MATE_IN_ONE, 3 * 41 + 6, r"action 129 \(off the board from d1\) is illegal"),
        # Ka2-a3 would stand beside the other king; black's is the mirror, Ka3-a2
        ("white", MATE_IN_ONE, 4 * 41, r"action 164 \(a2a3\) is illegal in k3/4/K3/3R w .*info\['action_mask'\]"),
        ("black", MIRRORED, 4 * 41, r"action 164 \(a3a2\) is illegal in 3r/k3/4/K3 b .*illegal='lose'"),
    ],
)
def test_an_illegal_move_raises_and_nothing_has_moved(color, fen, action, message):
    env = make(color=color, start=(fen,)).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    _, reward, terminated, _, _ = env.step(MATING)
    assert (reward, terminated) == (1, True)
    envs = make_vec(3, color=color, start=(fen,))
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=rf"{message.split(' .*')[0]}.* on board 1;"):
        envs.step(np.array([MATING, action, MATING]))
    assert envs.step(np.array([MATING] * 3))[2].tolist() == [True] * 3


def test_an_illegal_move_loses_where_it_should():
    env = make(illegal="lose", reward={"name": "outcome", "win": 5.0}, start=(MATE_IN_ONE,))
    fresh, _ = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(EMPTY)
    assert (reward, terminated, truncated) == (-1, True, False)
    assert (info["termination"], info["fen"]) == ("illegal", MATE_IN_ONE)
    assert np.array_equal(observation, fresh) and bool(info["action_mask"].all())
    envs = make_vec(3, illegal="lose", start=(MATE_IN_ONE,))
    envs.reset(seed=0)
    _, rewards, terminated, _, info = envs.step(np.array([MATING, EMPTY, MATING]))
    assert rewards.tolist() == [1, -1, 1] and bool(terminated.all())
    assert info["final_info"]["termination"].tolist() == ["checkmate", "illegal", "checkmate"]
    assert np.array_equal(info["final_obs"][1], fresh)


@pytest.mark.parametrize("illegal", ["raise", "lose"])
def test_what_is_no_action_is_refused(illegal):
    env, envs = make(illegal=illegal).unwrapped, make_vec(2, illegal=illegal)
    env.reset(seed=0)
    envs.reset(seed=0)
    for wrong in (-1, 656):  # 16 squares x 41 planes
        with pytest.raises(ValueError, match=f"action {wrong} is none of 0 to 655"):
            env.step(wrong)
    with pytest.raises(ValueError, match=r"actions: expected whole numbers of shape \[1\], found float64"):
        env.step(1.5)
    with pytest.raises(ValueError, match=r"expected whole numbers of shape \[2\], found int64 of shape \[3\]"):
        envs.step(np.array([1, 2, 3]))


# Drawing


@pytest.mark.parametrize(
    ("color", "fen", "expected"),
    [
        ("white", MATE_IN_ONE, "4 ♚ · · ·\n3 · · · ·\n2 ♔ · · ·\n1 · · · ♖\n  a b c d\nwhite to move"),
        # black's side below: files run from right to left
        ("black", MIRRORED, "1 · · · ♔\n2 · · · ·\n3 · · · ♚\n4 ♜ · · ·\n  d c b a\nblack to move"),
    ],
)
def test_a_board_is_drawn_from_the_learners_side(color, fen, expected):
    for mode in ("ansi", "svg"):
        env, envs = make(color=color, render_mode=mode), make_vec(2, color=color, render_mode=mode)
        env.reset(options={"fen": fen})
        envs.reset(options={"fen": fen})
        drawn = env.render()
        assert envs.render() == (drawn, drawn)
        if mode == "ansi":
            assert drawn == expected
        else:
            assert drawn.startswith("<svg ") and fen in drawn


def test_nothing_is_drawn_unasked():
    env = make().unwrapped
    env.reset(seed=0)
    assert env.render() is None


# Masks for others


def test_masks_as_maskable_ppo_asks_for_them():
    env = make()
    _, info = env.reset(seed=0)
    masks = env.get_wrapper_attr("action_masks")()
    assert masks.dtype == np.bool_ and np.array_equal(masks, info["action_mask"] == 1)


def test_the_mask_stands_in_the_observation():
    env = MaskInObs(make(start=(MATE_IN_ONE,)))
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    assert np.array_equal(observation["action_mask"], info["action_mask"])
    assert np.array_equal(observation["observation"], seen(MATE_IN_ONE, "white"))
    observation, *_ = env.step(MATING)
    assert observation in env.observation_space and bool(observation["action_mask"].all())


@pytest.mark.parametrize("mode", [*AutoresetMode, None])
def test_the_mask_stands_in_the_observations_of_every_autoreset_mode(mode):
    native = mode is None
    envs = make_vec(2, "KRK4-v0", "vector_entry_point" if native else "sync", mode, start=(MATE_IN_ONE,))
    inner = envs.envs if not native else None
    envs = VectorMaskInObs(envs)
    observations, begun = envs.reset(seed=0)
    waiting = int(np.flatnonzero(begun["action_mask"][1])[0])
    observations, _, terminated, _, info = envs.step(np.array([MATING, waiting]))
    assert terminated.tolist() == [True, False]
    same = native or mode is AutoresetMode.SAME_STEP
    if same:
        assert info["final_obs"][0] in envs.single_observation_space
        assert bool(info["final_obs"][0]["action_mask"].all())
    elif mode is AutoresetMode.DISABLED:
        assert bool(observations["action_mask"][0].all())
        kept = observations["action_mask"][1]
        observations, _ = envs.reset(options={"reset_mask": np.array([True, False])})
        assert np.array_equal(observations["action_mask"][1], kept)
    else:
        assert bool(observations["action_mask"][0].all())
        observations, *_ = envs.step(np.array([0, int(np.flatnonzero(observations["action_mask"][1])[0])]))
    assert observations in envs.observation_space
    assert np.array_equal(observations["action_mask"][0], begun["action_mask"][0])
    if inner is not None:
        for row, env in enumerate(inner):
            assert np.array_equal(observations["action_mask"][row], env.get_wrapper_attr("action_masks")())


def test_a_mask_needs_numbered_actions():
    with pytest.raises(LabError, match="MaskInObs: actions must be Discrete from 0"):
        MaskInObs(gymnasium.make("Pendulum-v1"))


# In the laboratory


@MODES
def test_the_lab_trains_on_it(vectorization):
    # an action that is not legal would raise; a position of KRK on 4 x 4 has at most 8 + 6 moves, of 656 actions
    results = rlhf_lab.run(
        {
            "environment": {
                "name": "gymnasium",
                "id": "rlhf_lab_chess:rlhf_lab/KRK4-v0",
                "kwargs": {"opponent": "optimal", "max_steps": 6},
                "vectorization": vectorization,
            },
            "policy": {"name": "mlp", "hidden": [8]},
            "trainer": {"name": "online", "envs": 4, "steps": 16},
            "optimizer": "adam",
            "advantage": "gae",
            "objective": "ppo_clip",
            "budget": {"iterations": 2},
        }
    )
    (arm,) = results.arms
    assert arm.x["steps"].tolist() == [64, 128] and not arm.failed.any()
    assert bool((arm.curves["entropy"] > 0).all() and (arm.curves["entropy"] < math.log(14)).all())

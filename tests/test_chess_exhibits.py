"""What endings exhibit of a policy: the chosen positions, the world's own numbers, and the right arrows in pictures."""

from __future__ import annotations

import re

import pytest
from torch import Tensor

from rlhf_lab.pictures import check_svg
from rlhf_lab.random import Streams
from rlhf_lab.training.exhibits import Exhibit
from rlhf_lab_chess import KPK, KQK, KRK, Outcome, PotentialMaterial
from rlhf_lab_chess.environment import BuiltEnding, EndingEnvironment
from rlhf_lab_chess.players import BEST, VERDICTS, move_verdicts, player
from rlhf_lab_chess.states import read_move, read_state, write_move

GAMMA = 0.9
SMALL = KRK(board=4, gamma=GAMMA)
COSTLY, BAD, LONGEST, TEMPTING = (
    "Where the policy loses most",
    "A bad move in a won position",
    "The longest mate",
    "What the paid reward prefers",
)


def shown(environment: EndingEnvironment, strength: float = 0.5) -> tuple[BuiltEnding, Tensor, dict[str, Exhibit]]:
    built = environment.build(1, 1, Streams([0]))
    policy = player(built.ending, strength)
    return built, policy, {exhibit.title: exhibit for exhibit in built.exhibits(policy)}


def label(exhibit: Exhibit) -> tuple[str, list[tuple[str, str]]]:
    """The FEN and the arrows (role, move) that a picture says it shows."""
    found = re.search(r'aria-label="([^"]*)"', exhibit.picture)
    assert found
    _, fen, *arrows = found[1].split("; ")
    return fen, [(role, move) for role, move in (arrow.split(" ") for arrow in arrows)]


def state_of(built: BuiltEnding, exhibit: Exhibit) -> int:
    return read_state(built.ending, label(exhibit)[0])[0]


@pytest.mark.parametrize("environment", [SMALL, KQK(board=5, gamma=GAMMA)], ids=["KRK 4", "KQK 5"])
def test_the_numbers_are_the_world_s(environment):
    built, policy, found = shown(environment.model_copy(update={"proxy": Outcome(draw=2.0)}))
    world = built.exact()
    tables = policy, world.action_values(policy), world.advantages(policy)
    best = world.optimal_action_values()
    verdicts, ending = move_verdicts(built.ending), built.ending
    assert list(found) == [COSTLY, BAD, LONGEST, TEMPTING]
    for exhibit in found.values():
        state = state_of(built, exhibit)
        assert exhibit.columns == ("move", "verdict", "mate in", "probability", "Q", "A", "Q*", "A*")
        for move, verdict, mate, *numbers in exhibit.rows:
            slot = read_move(ending, state, str(move))
            assert verdict == VERDICTS[verdicts[state, slot]]
            behind = int(ending.moves[state, slot])
            plies = int(ending.lost[behind])
            assert mate == ("draw" if plies < 0 else str(plies // 2 + 1))
            due = [float(table[state, slot]) for table in tables]
            due += [float(best[state, slot]), float(best[state, slot] - best[state].max())]
            assert numbers == pytest.approx(due, abs=1e-12)
        order = [row[6] for row in exhibit.rows[:12]]
        assert order == sorted(order, reverse=True)
        legal = int(world.legal[state].sum())
        left = legal - len(exhibit.rows)
        assert (f" {left} further moves are no better." in exhibit.caption) == (left > 0)
        moves = ending.moves_to_mate(state)
        assert exhibit.caption.startswith(f"White to move: mate in {moves}.")


def test_the_positions_that_are_chosen():
    built, policy, found = shown(SMALL.model_copy(update={"proxy": Outcome(draw=2.0)}))
    world, ending = built.exact(), built.ending
    best, legal = world.optimal_action_values(), world.legal
    top = best.max(-1, keepdim=True)[0]
    loss = (policy * (top - best).masked_fill(~legal, 0)).sum(-1)
    visits = world.occupancy(policy)
    state = state_of(built, found[COSTLY])
    assert float(visits[state] * loss[state]) == pytest.approx(float((visits * loss).max()))
    assert f"On the mean it loses {float(loss[state]):.2g} here." in found[COSTLY].caption
    # the largest -Q* A*, written out: all positions of this ending are won
    worst = max((-float(best[s, a]) * float(best[s, a] - top[s, 0]), s, a) for s, a in legal.nonzero().tolist())
    state = state_of(built, found[BAD])
    said = re.search(r"(\w+): Q\* = (\S+), A\* = (\S+)\.", found[BAD].caption)
    assert said
    slot = read_move(ending, state, said[1])
    q, a = float(best[state, slot]), float(best[state, slot] - top[state, 0])
    assert -q * a == pytest.approx(worst[0], abs=1e-12)
    assert (float(said[2]), float(said[3])) == (pytest.approx(q, rel=5e-3), pytest.approx(a, rel=5e-3))
    assert q > 0 > a
    assert ending.moves_to_mate(state_of(built, found[LONGEST])) == 7  # on 4 x 4
    # a proxy that pays draws has the rook given away where that is possible at once
    state = state_of(built, found[TEMPTING])
    paid = built.paid().optimal_action_values()
    cost = (top - best.gather(-1, paid.argmax(-1, keepdim=True)))[: len(ending.white), 0]
    assert float(cost[state]) == pytest.approx(float(cost.max()), abs=1e-12)


def test_the_bad_move_does_not_depend_on_the_policy():
    weak, strong = (shown(SMALL, strength)[2][BAD] for strength in (0.0, 5.0))
    assert label(weak)[0] == label(strong)[0]


def test_no_reward_that_keeps_the_optimum_is_accused():
    assert list(shown(SMALL.model_copy(update={"proxy": PotentialMaterial()}))[2]) == [COSTLY, BAD, LONGEST]
    assert list(shown(SMALL)[2]) == [COSTLY, BAD, LONGEST]


def test_the_longest_mate_is_one_from_a_first_position():
    built, _, found = shown(SMALL.model_copy(update={"mate_in": (1, 2)}))
    state = state_of(built, found[LONGEST])
    assert built.ending.moves_to_mate(state) == 2
    assert float(built.exact().start[state]) > 0


@pytest.mark.slow
def test_where_nothing_is_won_there_is_no_longest_mate():
    # K e4, P d4, k d6: black holds the draw
    built, _, found = shown(KPK(gamma=GAMMA, start=("8/8/3k4/8/3PK3/8/8/8 w - - 0 1",), max_steps=5))
    assert list(found) == [COSTLY, BAD]
    assert built.ending.moves_to_mate(int(built.exact().start.argmax())) is None


def test_pictures_are_valid_and_their_arrows_right():
    roles = set()
    lying = SMALL.model_copy(update={"proxy": Outcome(draw=2.0)})
    # of moves that mate equally soon the player takes either, against a random king one of them is better
    equals = SMALL.model_copy(update={"mate_in": (5, 5)})
    for environment, strength in ((lying, -1.0), (lying, 1.0), (equals, 5.0)):
        built, policy, found = shown(environment, strength)
        for exhibit in found.values():
            check_svg(exhibit.picture)
            roles |= check_arrows(built, policy, exhibit)
    assert roles == {"best", "played", "inaccuracy", "blunder"}


def check_arrows(built: BuiltEnding, policy: Tensor, exhibit: Exhibit) -> set[str]:
    """Check that the best move, the likeliest and the one that is spoken of have arrows; return the arrows' roles."""
    verdicts, board = move_verdicts(built.ending), built.ending.board
    state = state_of(built, exhibit)
    _, arrows = label(exhibit)
    moves = {move: role for role, move in arrows}
    best = str(exhibit.rows[0][0])
    slots = built.exact().legal[state].nonzero()[:, 0]
    likeliest = write_move(built.ending, state, int(slots[policy[state, slots].argmax()]))
    told = re.search(r"\. (\w{4})(?: is best paid|: Q\*)", exhibit.caption)
    assert set(moves) == {best, likeliest, *([told[1]] if told else [])}
    for move, role in moves.items():
        verdict = verdicts[state, read_move(built.ending, state, move)]
        assert role == ("best" if move == best else "played" if verdict == BEST else VERDICTS[verdict])
    # an arrow's first point is its tip, the centre of the square it leads to: 100 units a square, rank 1 below
    drawn = re.findall(r'<polygon points="([\d.]+),([\d.]+) [^>]*data-role="(\w+)"', exhibit.picture)
    assert [role for _, _, role in drawn] == [role for role, _ in arrows]
    for (x, y, _), (_, move) in zip(drawn, arrows, strict=True):
        rank, file = divmod(board.square(move[2:4]), 4)
        assert (float(x), float(y)) == (100 * file + 50, 100 * (3 - rank) + 50)
    return set(moves.values())

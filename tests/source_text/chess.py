"""Sections 1 and 2.7 of the source text, on a chess ending of which every move's worth is known."""

from __future__ import annotations

from functools import cache

import torch

from rlhf_lab.worlds.turns import TurnWorld
from rlhf_lab_chess import KRK, OptimalDefence
from rlhf_lab_chess.players import player

STRENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0)


@cache
def rook_ending() -> TurnWorld:
    return KRK(gamma=0.99).world()


def test_c03_who_imitates_is_worth_what_the_players_of_the_records_are() -> None:
    # imitation of infinitely many records ends at the player's own policy, so that its exact value is the ceiling
    ceilings = [float(rook_ending().expected_return(player(KRK().ending(), strength))) for strength in STRENGTHS]
    assert ceilings == sorted(ceilings)
    assert ceilings[0] < 0.07 < 0.9 < ceilings[-1] < float(rook_ending().optimal_return())


def test_c03_records_of_strong_players_show_fewer_moves() -> None:
    # how many different moves a position is expected to show in ten records of it: sum_a 1 - (1 - pi(a|s))^10
    shown = [float((1 - (1 - player(KRK().ending(), strength)[:1312]) ** 10).sum(-1).mean()) for strength in STRENGTHS]
    assert shown == sorted(shown, reverse=True)
    assert shown[0] > 2 * shown[-1]


def test_c18_a_bad_move_in_a_won_position_has_a_high_q_and_a_negative_advantage() -> None:
    # every position of KRK on 4 x 4 is won; best play has no positive advantage, and most moves lose a little only
    world = rook_ending()
    best = world.optimal_action_values()
    advantages = (best - best.amax(-1, keepdim=True))[world.legal]
    assert float(advantages.max()) == 0
    assert float(((best[world.legal] > 0.5) & (advantages < -1e-9)).double().mean()) > 0.5


def test_c18_holds_where_play_goes_on_at_random_or_the_defence_is_best() -> None:
    for world in (rook_ending(), KRK(gamma=0.99, opponent=OptimalDefence()).world()):
        policy = world.uniform_policy()
        values, advantages = world.action_values(policy)[world.legal], world.advantages(policy)[world.legal]
        assert bool(((values > 0) & (advantages < 0)).any())
        assert torch.allclose((policy * world.advantages(policy)).sum(-1), torch.zeros(()).double(), atol=1e-12)

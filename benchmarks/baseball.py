"""Fit Bradley-Terry strengths to a season of baseball, and set them beside the published ones.

python benchmarks/baseball.py

The reward-model loss ``bradley_terry`` is all there is: its sum over the games is minimised over the seven strengths
(that of Baltimore is 0, since only differences matter), and over the advantage of playing at home.

Data: wins and losses of the 1987 season, American League, eastern division (Agresti 2002, section 10.6). Published
strengths: Turner & Firth 2012, "Bradley-Terry models in R: the BradleyTerry2 package".
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from rlhf_lab.types import Scores
from rlhf_lab_preference import BradleyTerry

__all__ = ["PUBLISHED", "PUBLISHED_HOME", "TEAMS", "fit", "season"]

TEAMS: Final = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
# home wins and losses of the row's team against the column's
_GAMES: Final = """
 -  4-3 4-2 4-3 6-1 4-2 6-0
3-3  -  4-2 4-3 6-0 6-1 4-3
2-5 4-3  -  2-4 4-3 4-2 6-0
3-3 5-1 2-5  -  4-3 4-2 6-1
5-1 2-5 3-3 4-2  -  5-2 6-0
2-5 3-3 3-4 4-3 4-2  -  2-4
2-5 1-5 1-6 2-4 1-6 3-4  -
"""
PUBLISHED: Final = (1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839, 0.0)
PUBLISHED_HOME: Final = (1.6196, 1.4754, 1.3271, 1.2813, 1.1438, 0.7047, 0.0, 0.3023)  # and the home advantage


def season() -> Tensor:
    """Return one row for each way a game of two teams ended: winner, loser, 1 (or -1) where the winner was at home
    (or away), and how often, ``[84, 4]``.
    """
    found = []
    for home, line in enumerate(_GAMES.strip().splitlines()):
        for away, cell in enumerate(line.split()):
            if home != away:
                won, lost = map(int, cell.split("-"))
                found += [(home, away, 1, won), (away, home, -1, lost)]
    return torch.tensor(found, dtype=torch.float64)


def fit(*, home: bool = False) -> Tensor:
    """Return the strengths of the teams that make the season's games likeliest and, with ``home``, the advantage of
    playing at home, by Newton's method on the summed loss.
    """
    games = season()
    winner, loser = games[:, 0].long(), games[:, 1].long()
    venue, count = games[:, 2], games[:, 3]

    def loss(parameters: Tensor) -> Tensor:
        strengths = torch.cat([parameters[:6], parameters.new_zeros(1)])
        advantage = 0.5 * parameters[6] * venue if home else torch.zeros_like(venue)
        scores = torch.stack([strengths[winner] + advantage, strengths[loser] - advantage], dim=-1)
        losses = BradleyTerry()(Scores(scores, weights=count)).values
        return (count * losses).sum()

    parameters = torch.zeros(7 if home else 6, dtype=torch.float64)
    for _ in range(20):  # convex and nearly quadratic: each step doubles the digits
        curvature = torch.autograd.functional.hessian(loss, parameters)
        slope = torch.autograd.functional.jacobian(loss, parameters)
        parameters = parameters - torch.linalg.solve(curvature, slope)
    return torch.cat([parameters[:6], parameters.new_zeros(1), parameters[6:]])


def main() -> None:
    for home, published in ((False, PUBLISHED), (True, PUBLISHED_HOME)):
        print("with" if home else "without", "an advantage at home")
        for name, found, told in zip((*TEAMS, "at home"), fit(home=home).tolist(), published, strict=False):
            print(f"  {name:<10} {found:7.4f}   published {told:7.4f}")


if __name__ == "__main__":
    main()

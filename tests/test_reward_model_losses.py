"""Losses on scores against values derived by hand, at extremes, on ragged rows, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_lab.components import RewardObjective
from rlhf_lab.types import BatchError, Loss, Refused, Scores
from rlhf_lab_preference import (
    BradleyTerry,
    BradleyTerryCentred,
    BradleyTerryMargin,
    Davidson,
    ListNet,
    ListNetBest,
    PairwiseOfK,
    PlackettLuce,
    PointwiseBCE,
    RaoKupper,
    Regression,
    SoftBradleyTerry,
    Thurstone,
)

NAN = math.nan
LOG = math.log
PAIRS = [
    BradleyTerry(),
    BradleyTerryMargin(),
    BradleyTerryCentred(),
    SoftBradleyTerry(),
    Thurstone(),
    RaoKupper(),
    Davidson(),
]
LISTS = [PlackettLuce(), PairwiseOfK(), ListNetBest(), ListNet(), Regression(), PointwiseBCE()]


def name_of(part: Any) -> str | None:
    return getattr(part, "name", None)


def double(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def make(scores: Tensor, **labels: Any) -> Scores:
    """Return a batch with every label that some loss needs, unless another one is given."""
    rows = scores.shape[:-1]
    given: dict[str, Any] = {
        "targets": torch.full(scores.shape, 0.25, dtype=scores.dtype),
        "ranks": torch.arange(scores.shape[-1]).expand(scores.shape).contiguous(),
        "margins": torch.zeros(rows, dtype=scores.dtype),
        "preference_prob": torch.ones(rows, dtype=scores.dtype),
    }
    return Scores(scores, **(given | labels))


def values_and_gradient(loss: RewardObjective, rows: Any, **labels: Any) -> tuple[list[float], list[list[float]]]:
    scores = double(rows).requires_grad_()
    values = loss(make(scores, **labels)).values
    (gradient,) = torch.autograd.grad(values.sum(), scores)
    return values.tolist(), gradient.tolist()


def near(found: Any, expected: Any) -> None:
    if isinstance(found, tuple):
        for part, due in zip(found, expected, strict=True):
            near(part, due)
        return
    torch.testing.assert_close(double(found), double(expected), atol=1e-12, rtol=1e-12)


def test_bradley_terry_by_hand() -> None:
    # Odds of 3 to 1: P = 3/4, and P = 1/4 for the other outcome; the slope is the probability of the other outcome.
    found = values_and_gradient(BradleyTerry(), [[LOG(3), 0.0], [0.0, LOG(3)]])
    near(found[0], [LOG(4 / 3), LOG(4)])
    near(found[1], [[-0.25, 0.25], [-0.75, 0.75]])


def test_margin_by_hand() -> None:
    # A margin of log 3 takes all of the lead: log 2, slope 1/2.
    found = values_and_gradient(BradleyTerryMargin(), [[LOG(3), 0.0]], margins=double([LOG(3)]))
    near(found, ([LOG(2)], [[-0.5, 0.5]]))


def test_centring_by_hand() -> None:
    # Scores log 3 + 1 and 1: to log 4/3 comes 1/4 (2 + log 3)^2, whose slope in each score is 1/2 (2 + log 3).
    level = 2 + LOG(3)
    found = values_and_gradient(BradleyTerryCentred(coef=0.25), [[LOG(3) + 1, 1.0]])
    near(found[0], [LOG(4 / 3) + 0.25 * level**2])
    near(found[1], [[0.5 * level - 0.25, 0.5 * level + 0.25]])


def test_soft_label_by_hand() -> None:
    # P = 3/4 for the first: 2/3 log 4/3 + 1/3 log 4, slope P - p = 3/4 - 2/3.
    found = values_and_gradient(SoftBradleyTerry(), [[LOG(3), 0.0]], preference_prob=double([2 / 3]))
    near(found, ([2 / 3 * LOG(4 / 3) + 1 / 3 * LOG(4)], [[1 / 12, -1 / 12]]))


def test_thurstone_by_hand() -> None:
    # At equal scores P = 1/2, and the slope is the density over it: 1/sqrt(2 pi) / (sqrt 2 / 2) = 1/sqrt(pi), over
    # scale 2. One standard deviation of the difference ahead: P = 0.841344746068543.
    slope = 1 / math.sqrt(math.pi) / 2
    near(values_and_gradient(Thurstone(scale=2), [[1.0, 1.0]]), ([LOG(2)], [[-slope, slope]]))
    near(values_and_gradient(Thurstone(scale=2), [[math.sqrt(8), 0.0]])[0], [-LOG(0.841344746068543)])


def test_rao_kupper_by_hand() -> None:
    # p = 3, q = 1, theta = 2: P(win) = 3/5, P(loss) = 1/7, P(tie) = 3 * 3 / (5 * 7) = 9/35; together 1.
    rows, ranks = [[LOG(3), 0.0], [0.0, LOG(3)], [LOG(3), 0.0]], torch.tensor([[0, 1], [0, 1], [0, 0]])
    found = values_and_gradient(RaoKupper(), rows, ranks=ranks)
    near(found[0], [LOG(5 / 3), LOG(7), LOG(35 / 9)])
    # a win's slope is P(not won); a tie's P(won or tied) less P(lost or tied): 6/7 - 2/5
    near(found[1], [[-0.4, 0.4], [-6 / 7, 6 / 7], [6 / 7 - 0.4, 0.4 - 6 / 7]])


def test_davidson_by_hand() -> None:
    # p = 4, q = 1, nu = 1/2: the tie's strength is 1/2 sqrt 4 = 1, so P = 4/6, 1/6 and 1/6.
    rows, ranks = [[LOG(4), 0.0], [0.0, LOG(4)], [LOG(4), 0.0]], torch.tensor([[0, 1], [0, 1], [7, 7]])
    found = values_and_gradient(Davidson(nu=0.5), rows, ranks=ranks)
    near(found[0], [LOG(6 / 4), LOG(6), LOG(6)])
    # the expected points of the first less those it got, a tie being half a point: 3/4 + ... = (4 + 1/2) / 6
    near(found[1], [[0.75 - 1, 1 - 0.75], [0.25 - 1, 1 - 0.25], [0.75 - 0.5, 0.5 - 0.75]])


def test_pairwise_of_k_by_hand() -> None:
    # Strengths 3, 2, 1: pairs 3:2, 3:1 and 2:1, so L = 1/3 (log 5/3 + log 4/3 + log 3/2) = 1/3 log 10/3.
    found = values_and_gradient(PairwiseOfK(), [[LOG(3), LOG(2), 0.0]])
    near(found[0], [LOG(10 / 3) / 3])
    near(found[1], [[(-2 / 5 - 1 / 4) / 3, (2 / 5 - 1 / 3) / 3, (1 / 4 + 1 / 3) / 3]])


def test_listnet_by_hand() -> None:
    # Shares of scores 3/6, 2/6, 1/6; of targets 1/4, 1/4, 1/2: L = 1/4 log 2 + 1/4 log 3 + 1/2 log 6.
    scores, targets = [[LOG(3), LOG(2), 0.0]], double([[5.0, 5.0, 5.0 + LOG(2)]])
    found = values_and_gradient(ListNet(), scores, targets=targets)
    near(found, ([LOG(2) / 4 + LOG(3) / 4 + LOG(6) / 2], [[1 / 4, 1 / 12, -1 / 3]]))
    near(values_and_gradient(ListNetBest(), scores), ([LOG(2)], [[-0.5, 1 / 3, 1 / 6]]))


def test_pointwise_losses_by_hand() -> None:
    # errors 1 and -3: (1 + 9) / 2, slopes 2/2 e
    found = values_and_gradient(Regression(), [[2.0, 0.0]], targets=double([[1.0, 3.0]]))
    near(found, ([5.0], [[1.0, -3.0]]))
    # probabilities 3/4 and 1/2 with labels 1 and 1/4: (log 4/3 + log 2) / 2, slopes (P - y) / 2
    found = values_and_gradient(PointwiseBCE(), [[LOG(3), 0.0]], targets=double([[1.0, 0.25]]))
    near(found, ([(LOG(4 / 3) + LOG(2)) / 2], [[-1 / 8, 1 / 8]]))


def literal_forms() -> list[tuple[str, Callable[[Tensor], Tensor]]]:
    return [
        ("log sigma of each score", lambda s: s[:, 1].sigmoid().log() - s[:, 0].sigmoid().log()),  # E36
        ("no index in the ranking", lambda s: torch.log(torch.tensor(math.factorial(s.shape[1]))) + 0 * s.sum(-1)),
    ]


def test_the_literal_forms_are_no_likelihoods() -> None:
    # E36: not 0 in sum over both outcomes, and unbounded: 49.3 at r_w = 0, r_l = -50. E46: log K! whatever the scores.
    each, constant = (form for _, form in literal_forms())
    near(each(double([[0.0, -50.0]])).tolist(), [-50 + LOG(2)])
    outcomes = (-each(double([[1.0, 0.0], [0.0, 1.0]]))).exp().sum()
    assert abs(float(outcomes) - 1) > 0.1
    near((-BradleyTerry()(make(double([[1.0, 0.0], [0.0, 1.0]]))).values).exp().sum().tolist(), 1.0)
    assert constant(double([[1.0, 0.0]])).tolist() == constant(double([[0.0, 1.0]])).tolist()


@pytest.mark.parametrize("loss", [*PAIRS, *LISTS], ids=name_of)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_margins_of_8000_are_finite(loss: RewardObjective, dtype: torch.dtype) -> None:
    rows = [[8000.0, -8000.0], [-8000.0, 8000.0], [8000.0, 8000.0]]
    scores = torch.tensor(rows, dtype=dtype, requires_grad=True)
    found = loss(make(scores))
    (gradient,) = torch.autograd.grad(found.values.sum(), scores)
    assert bool(found.values.isfinite().all()) and bool(gradient.isfinite().all())
    assert all(bool(metric.isfinite().all()) for metric in found.metrics.values())


def test_thurstone_pulls_back_in_the_far_tail() -> None:
    # The slope of -log Phi(x) tends to -x - 1/x; in float32 it is right too.
    scores = torch.tensor([[-8000.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(Thurstone()(make(scores)).values.sum(), scores)
    torch.testing.assert_close(gradient, torch.tensor([[-4000.0, 4000.0]]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("loss", [*PAIRS, *LISTS], ids=name_of)
def test_invalid_candidates_are_inert(loss: RewardObjective) -> None:
    # rows: a pair with a hole, one candidate, none; what stands elsewhere is NaN
    valid = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    scores = double([[1.0, NAN, 0.5], [NAN, 2.0, NAN], [NAN, NAN, NAN]]).requires_grad_()
    targets = double([[0.75, NAN, 0.5], [NAN, 0.25, NAN], [NAN, NAN, NAN]])
    found = loss(make(scores, valid=valid, targets=targets))
    (gradient,) = torch.autograd.grad(found.values.sum(), scores)
    kept = double([[1.0, 0.5]]).requires_grad_()
    alone = loss(make(kept, targets=double([[0.75, 0.5]])))
    near(found.values[:1].tolist(), alone.values.tolist())
    near(gradient[0, [0, 2]].tolist(), torch.autograd.grad(alone.values.sum(), kept)[0][0].tolist())
    assert bool((gradient[~valid] == 0).all())
    assert found.weights is not None
    pointwise = isinstance(loss, Regression | PointwiseBCE)
    assert found.weights.tolist() == [1.0, 1.0 if pointwise else 0.0, 0.0]
    assert found.values[found.weights == 0].tolist() == [0.0] * int((found.weights == 0).sum())
    assert all(bool(metric.isfinite().all()) for metric in found.metrics.values())


@pytest.mark.parametrize("loss", LISTS, ids=name_of)
def test_padding_changes_no_bit(loss: RewardObjective) -> None:
    # A run's rows are padded to the longest row of all runs; that must not change the order of a sum.
    torch.manual_seed(0)
    scores, targets = torch.randn(16, 9), torch.rand(16, 9)
    wider = [torch.nn.functional.pad(x, (5, 7), value=NAN) for x in (scores, targets)]
    valid = torch.nn.functional.pad(torch.ones(16, 9, dtype=torch.bool), (5, 7))
    narrow, padded = scores.requires_grad_(), wider[0].requires_grad_()
    found = [loss(make(narrow, targets=targets)), loss(make(padded, targets=wider[1], valid=valid))]
    slopes = [torch.autograd.grad(x.values.sum(), s)[0] for x, s in zip(found, (narrow, padded), strict=True)]
    assert torch.equal(found[0].values, found[1].values)
    assert torch.equal(slopes[0], slopes[1][:, 5:14])


@pytest.mark.parametrize("loss", [*PAIRS, *LISTS], ids=name_of)
def test_only_scores_carry_gradient(loss: RewardObjective) -> None:
    scores = double([[1.0, 0.5]]).requires_grad_()
    labels = {"targets": double([[0.75, 0.5]]), "margins": double([0.25]), "preference_prob": double([0.75])}
    live = {name: x.requires_grad_() for name, x in labels.items()}
    total = loss(make(scores, **live)).values.sum()
    found = torch.autograd.grad(total, [scores, *live.values()], allow_unused=True)
    assert bool((found[0] != 0).any())
    assert all(x is None for x in found[1:])


@pytest.mark.parametrize("loss", PAIRS, ids=name_of)
def test_pair_losses_refuse_three_candidates(loss: RewardObjective) -> None:
    with pytest.raises(Refused, match="compares two responses, found 3 in one row"):
        loss(make(double([[1.0, 0.5, 0.0]])))


@pytest.mark.parametrize("loss", [RaoKupper(theta=1), Davidson(nu=0)], ids=name_of)
def test_ties_are_refused_where_they_are_impossible(loss: RewardObjective) -> None:
    assert loss(make(double([[1.0, 1.0]]))).values.tolist() == [LOG(2)]
    with pytest.raises(Refused, match="a tie has probability 0"):
        loss(make(double([[1.0, 1.0]]), ranks=torch.tensor([[3, 3]])))


def test_labels_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(Refused, match=r"found from -0\.5 to 2; take regression"):
        PointwiseBCE()(make(double([[1.0, 0.0]]), targets=double([[2.0, -0.5]])))


@pytest.mark.parametrize(
    ("loss", "field"),
    [
        (BradleyTerryMargin(), "margins"),
        (SoftBradleyTerry(), "preference_prob"),
        (RaoKupper(), "ranks"),
        (Davidson(), "ranks"),
        (ListNet(), "targets"),
        (Regression(), "targets"),
        (PointwiseBCE(), "targets"),
    ],
    ids=name_of,
)
def test_a_missing_label_is_named(loss: RewardObjective, field: str) -> None:
    assert loss.needs() == {field}
    with pytest.raises(BatchError, match=rf"Scores\.{field}"):
        loss(make(double([[1.0, 0.0]]), **{field: None}))


def test_metrics_of_pairs_and_rankings() -> None:
    # ahead by 1, behind by 2, level; of rankings the lead over the best of the others
    pairs = BradleyTerry()(make(double([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]))).metrics
    assert pairs["margin"].tolist() == [1.0, -2.0, 0.0]
    assert pairs["accuracy"].tolist() == [1.0, 0.0, 0.5]
    lists = PlackettLuce()(make(double([[1.0, -5.0, 0.0], [0.0, 2.0, -1.0]]))).metrics
    assert lists["margin"].tolist() == [1.0, -2.0]
    assert lists["accuracy"].tolist() == [1.0, 0.0]
    error = Regression()(make(double([[2.0, 0.0]]), targets=double([[1.0, 3.0]]))).metrics["error"]
    assert error.tolist() == [2.0]


@pytest.mark.parametrize("loss", [*PAIRS, *LISTS], ids=name_of)
def test_leading_axes_do_not_matter(loss: RewardObjective) -> None:
    torch.manual_seed(0)
    scores, targets = torch.randn(3, 4, 2, dtype=torch.float64), torch.rand(3, 4, 2, dtype=torch.float64)

    def asked(*at: int) -> Loss:
        return loss(make(scores[at], targets=targets[at]))

    for run in range(3):
        for row in range(4):
            assert torch.equal(asked().values[run, row], asked(run, row).values)


def test_defaults_are_the_usual_ones() -> None:
    # TRL's coefficient of centring; a third of all comparisons between equals is a tie
    assert BradleyTerryCentred() == BradleyTerryCentred(coef=0.01)
    level = make(double([[0.0, 0.0]]), ranks=torch.tensor([[0, 0]]))
    near([RaoKupper()(level).values.tolist(), Davidson()(level).values.tolist()], [[LOG(3)], [LOG(3)]])


def test_equal_ranks_mean_nothing_to_losses_without_ties() -> None:
    tied, apart = (make(double([[1.0, 0.0]]), ranks=torch.tensor([ranks])) for ranks in ([0, 0], [0, 1]))
    for loss in (BradleyTerry(), PlackettLuce(), PairwiseOfK(), ListNetBest(), Thurstone()):
        assert torch.equal(loss(tied).values, loss(apart).values)


def test_a_clear_win_keeps_its_digits_in_float32() -> None:
    # L = log(1 + e^(-d/2) + e^(-d)) at nu = 1, d = 32: e^-16 = 1.12535e-7, of which a difference near 16 has no digit
    loss = Davidson()(Scores(torch.tensor([[32.0, 0.0]]), ranks=torch.tensor([[0, 1]])))
    assert loss.values.item() == pytest.approx(1.12535e-7, rel=1e-5)


def test_any_threshold_has_its_ties() -> None:
    # P(tie) = (θ² − 1) p q / ((p + θ q)(q + θ p)) -> 1 as θ grows, and θ² has no float at 1e200
    loss = RaoKupper(theta=1e200)(Scores(torch.zeros(1, 2), ranks=torch.zeros(1, 2, dtype=torch.int64)))
    assert loss.values.item() == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("loss", [PlackettLuce(), PairwiseOfK(), ListNetBest()], ids=lambda loss: loss.name)
def test_rows_without_room_are_refused(loss: RewardObjective) -> None:
    with pytest.raises(Refused, match="a row has no room for a response"):
        loss(Scores(torch.zeros(2, 0)))

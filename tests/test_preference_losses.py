"""Preference losses against hand tables, and what they do with rows that are not whole."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_lab.calling import call
from rlhf_lab.components import Component, PreferenceObjective
from rlhf_lab.errors import LabError
from rlhf_lab.registry import load_plugins
from rlhf_lab.types import BatchError, Loss, Rankings, Refused
from rlhf_lab_preference import (
    BCO,
    CPO,
    DPO,
    DPOP,
    EXO,
    FDPO,
    IPO,
    KTO,
    LDDPO,
    NCA,
    ORPO,
    RDPO,
    SFT,
    SPPO,
    TDPO,
    APODown,
    APOZero,
    CautiousDPO,
    DiscoPOP,
    DPONorm,
    Hinge,
    IterativeRPO,
    PlackettLuce,
    RaoKupper,
    RewardAwareRPO,
    RobustDPO,
    RPOWithSFT,
    SimPO,
    SLiC,
)

REGISTRY = load_plugins()
ALL: list[PreferenceObjective] = [  # type: ignore[assignment]
    component() for component in REGISTRY.components("preference") if "@" not in component.name
]
NAN = math.nan
LOG2 = math.log(2)
LOG3 = math.log(3)


def double(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def pair(a: float, b: float, **more: Any) -> Rankings:
    """One pair with log π_ref = (−2, −3), lengths 2 and 4, and log(π/π_ref) = (a, b)."""
    reference = double([[-2.0, -3.0]])
    log_probs = (reference + double([[a, b]])).requires_grad_()
    given = {"ref_log_probs": reference, "lengths": torch.tensor([[2, 4]])}
    return Rankings(log_probs, **{**given, **more})


def value_and_slopes(loss: Any, batch: Rankings) -> list[float]:
    """Return the loss of the only row and its slopes in both log-probabilities."""
    values = loss(batch).values
    (slope,) = torch.autograd.grad(values.sum(), batch.log_probs)
    return [values.item(), *slope[0].tolist()]


# With β = 1, a = log 3 and b = 0: h = log 3, σ(h) = 3/4; σ(a) = 3/4, σ(b) = 1/2. log π = (log 3 − 2, −3).
W = LOG3 - 2
HAND = [
    (DPO(beta=1.0), math.log(4 / 3), -1 / 4, 1 / 4),
    (CautiousDPO(beta=1.0, label_smoothing=0.25), 0.75 * math.log(4 / 3) + 0.25 * math.log(4), 0.0, 0.0),  # its optimum
    (CautiousDPO(beta=1.0, label_smoothing=0.125), 0.875 * math.log(4 / 3) + 0.125 * math.log(4), -1 / 8, 1 / 8),
    # (0.75 log 4/3 − 0.25 log 4) / 0.5; slope (−0.75 · 1/4 − 0.25 · 3/4) / 0.5
    (RobustDPO(beta=1.0, label_smoothing=0.25), 1.5 * math.log(4 / 3) - 0.5 * math.log(4), -3 / 4, 3 / 4),
    (IPO(beta=1.0), (LOG3 - 0.5) ** 2, 2 * (LOG3 - 0.5), -2 * (LOG3 - 0.5)),
    (Hinge(beta=0.5), 1 - 0.5 * LOG3, -0.5, 0.5),
    (Hinge(beta=1.0), 0.0, 0.0, 0.0),  # log 3 > 1
    (EXO(beta=1.0, label_smoothing=0.25), 0.0, 0.0, 0.0),  # q = 1 − e: its optimum
    # q = 3/4, e = 1/8: q log(6/7) + 1/4 log 2; slope q (1 − q) (log 3 − log 7)
    (EXO(beta=1.0, label_smoothing=0.125), 0.75 * math.log(6 / 7) + 0.25 * LOG2, 3 / 16 * math.log(3 / 7), None),
    # gate σ(h/tau) = σ(log 9) = 9/10: 1/10 log 4/3 + 9/10 · 1/3
    (DiscoPOP(beta=1.0, tau=0.5), 0.1 * math.log(4 / 3) + 0.3, None, None),
    (DPOP(beta=1.0), math.log(4 / 3), -1 / 4, 1 / 4),  # a > 0: that of dpo
    (SPPO(beta=1.0), (LOG3 - 0.5) ** 2 + 0.25, 2 * (LOG3 - 0.5), 1.0),
    # −log 3/4 − ½ log 1/4 − ½ log 1/2; slopes −1/4 + 3/8 and ½ · ½
    (NCA(beta=1.0), math.log(4 / 3) + LOG2 + 0.5 * LOG2, 1 / 8, 1 / 4),
    (BCO(beta=1.0), math.log(4 / 3) + LOG2, -1 / 4, 1 / 2),
    (BCO(beta=1.0, shift=LOG3), LOG2 + math.log(4 / 3), -1 / 2, 1 / 4),  # σ(0), and σ(−log 3) = 1/4
    (APOZero(beta=1.0), 1 / 4 + 1 / 2, -3 / 16, 1 / 4),
    (APODown(beta=1.0), 3 / 4 + 1 / 4, 0.0, 3 / 16),
    # a/2 − b/4 = ½ log 3; for β = 2 the margin is log 3 again, slopes β/|y| σ(−log 3)
    (DPONorm(beta=2.0), math.log(4 / 3), -1 / 4, 1 / 8),
    # log 3 − 2 alpha = 0 for alpha = ½ log 3
    (RDPO(beta=1.0, alpha=0.5 * LOG3), LOG2, -1 / 2, 1 / 2),
    # w/2 + 3/4 = ½ (log 3 − ½); β = 2, gamma = −½ + log 3 makes the margin 0
    (SimPO(beta=2.0, gamma=LOG3 - 0.5), LOG2, -1 / 2, 1 / 4),
    (CPO(beta=1.0, lam=2.0), math.log1p(math.exp(-W - 3)) - 2 * W, -2 - 1 / (1 + math.exp(W + 3)), None),
    (SLiC(delta=4.0, lam=0.5), 4 - (W + 3) - 0.5 * W, -1.5, 1.0),
    (SLiC(delta=1.0, lam=0.5), -0.5 * W, -0.5, 0.0),  # w − l = log 3 + 1 > 1
    (SFT(), -W, -1.0, 0.0),
    (SFT(per_token=True), -W / 2, -0.5, 0.0),
    (IterativeRPO(beta=1.0, alpha=3.0), math.log(4 / 3) - 1.5 * W, -1 / 4 - 1.5, 1 / 4),
    (RPOWithSFT(beta=1.0, eta=2.0), math.log(4 / 3) - 2 * W, -1 / 4 - 2, 1 / 4),
    (FDPO(beta=1.0), math.log(4 / 3), -1 / 4, 1 / 4),
    # f' = −1/u: −1/3 + 1 = 2/3; slopes −σ(−2/3) · 1/3 and σ(−2/3) · 1
    (FDPO(beta=1.0, divergence="forward"), math.log1p(math.exp(-2 / 3)), -1 / (3 + 3 * math.exp(2 / 3)), None),
    # f' = log(2u/(1 + u)): log 3/2 − log 1; σ(log 3/2) = 3/5; slopes −2/5 · 1/4 and 2/5 · 1/2
    (FDPO(beta=1.0, divergence="js"), math.log(5 / 3), -1 / 10, 1 / 5),
    # alpha = ½: 2 (1 − 3^−½) − 0
    (FDPO(beta=1.0, divergence="alpha"), math.log1p(math.exp(-2 + 2 / math.sqrt(3))), None, None),
]


@pytest.mark.parametrize(("loss", "value", "chosen", "rejected"), HAND, ids=lambda x: getattr(x, "name", None))
def test_by_hand(loss: Any, value: float, chosen: float | None, rejected: float | None) -> None:
    found = value_and_slopes(loss, pair(LOG3, 0.0))
    due = [x if y is None else y for x, y in zip(found, (value, chosen, rejected), strict=True)]
    assert found == pytest.approx(due, abs=1e-12)


def test_odds_of_means() -> None:
    """Means log ½ and log ¼: odds 1 and 1/3; L = log 2 − lam log (1/(1 + 1/3)) = log 2 + lam log 4/3."""
    log_probs = double([[-2 * LOG2, -4 * 2 * LOG2]]).requires_grad_()
    found = value_and_slopes(ORPO(lam=2.0), Rankings(log_probs, lengths=torch.tensor([[2, 4]])))
    # d log odds/d log p = 1/(1 − p): 2 and 4/3; lost share 1/4
    due = [LOG2 + 2 * math.log(4 / 3), (-1 - 2 / 4 * 2) / 2, 2 / 4 * 4 / 3 / 4]
    assert found == pytest.approx(due, abs=1e-12)


def test_dpop_pays_for_a_chosen_response_that_fell() -> None:
    """a = −log 3 / 4, b = −log 3, lam = 3: h − 3 |a| = ¾ log 3 − ¾ log 3 = 0; slope in a is −(1 + 3)/2."""
    found = value_and_slopes(DPOP(beta=1.0, lam=3.0), pair(-LOG3 / 4, -LOG3))
    assert found == pytest.approx([LOG2, -2.0, 0.5], abs=1e-12)


def test_soft_labels_move_the_targets() -> None:
    """p = ¾ and β = ½: targets ±½ for each response, ½ for the margin."""
    even = double([0.75])
    assert value_and_slopes(IPO(beta=0.5, soft_labels=True), pair(1.0, 0.5, preference_prob=even)) == [0.0, 0.0, 0.0]
    found = value_and_slopes(SPPO(beta=0.5, soft_labels=True), pair(1.0, 0.0, preference_prob=even))
    assert found == [0.5, 1.0, 1.0]


def test_a_given_reward_is_met() -> None:
    """η Δr = log 3 is the margin, so L = 0; for Δr = 0 it is ½ log(½/¾) + ½ log(½/¼), and the slope is q − ½."""
    loss = RewardAwareRPO(beta=1.0, eta=0.5)
    assert value_and_slopes(loss, pair(LOG3, 0.0, margins=double([2 * LOG3]))) == pytest.approx([0, 0, 0], abs=1e-12)
    found = value_and_slopes(loss, pair(LOG3, 0.0, margins=double([0.0])))
    assert found == pytest.approx([0.5 * math.log(4 / 3), 1 / 4, -1 / 4], abs=1e-12)


def test_divergences_shift_the_margin() -> None:
    """D = (1, 3), alpha = ½ log 3: h − ½ log 3 · 2 = 0; only D of the rejected response has a slope, alpha/2."""
    moved = double([[1.0, 3.0]]).requires_grad_()
    loss = TDPO(beta=1.0, alpha=0.5 * LOG3)(pair(LOG3, 0.0, token_kl=moved)).values
    (slope,) = torch.autograd.grad(loss.sum(), moved)
    assert loss.item() == pytest.approx(LOG2)
    assert slope[0].tolist() == pytest.approx([0.0, 0.25 * LOG3])
    both = TDPO(beta=1.0, alpha=0.5 * LOG3, stop_gradient=False)(pair(LOG3, 0.0, token_kl=moved)).values
    assert torch.autograd.grad(both.sum(), moved)[0][0].tolist() == pytest.approx([-0.25 * LOG3, 0.25 * LOG3])


def test_a_tail_counts_less() -> None:
    """Log-ratios (1, 2, 4) and (−1): the chosen response's tokens behind the first count ½, so a = 1 + 3, b = −1."""
    tokens = double([[[1.0, 2.0, 4.0], [-1.0, 64.0, NAN]]]).requires_grad_()
    counted = torch.tensor([[[True, True, True], [True, False, False]]])
    batch = Rankings(
        double([[7.0, -1.0]]),
        token_log_probs=tokens,
        token_ref_log_probs=torch.zeros(1, 2, 3, dtype=torch.float64),
        token_valid=counted,
    )
    loss = LDDPO(beta=1.0, alpha=0.5)(batch).values
    pull = 1 / (1 + math.exp(5))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-5)))
    (slope,) = torch.autograd.grad(loss.sum(), tokens)
    assert slope[0, 0].tolist() == pytest.approx([-pull, -pull / 2, -pull / 2])
    assert slope[0, 1].tolist() == pytest.approx([pull, 0, 0])


def test_a_found_loss_rises_for_a_stretch_around_zero() -> None:
    """β = 1, tau = 1/20: dL/dz at 0 is −½ · ½ − ½ + ¼ · 20 · (1 − log 2) = 5 (1 − log 2) − ¾ > 0, as gates open."""
    found = {z: value_and_slopes(DiscoPOP(beta=1.0), pair(z, 0.0))[1] for z in (-4, -0.119, -0.118, 0, 0.072, 0.073, 4)}
    assert found[0] == pytest.approx(5 * (1 - LOG2) - 0.75)
    assert [z for z, slope in found.items() if slope > 0] == [-0.118, 0, 0.072]
    bottom, top = (value_and_slopes(DiscoPOP(beta=1.0), pair(z, 0.0))[0] for z in (-0.119, 0.072))
    assert top > bottom + 0.05  # so that descent from a wrong order may stop short of the right one


# Rankings


def test_dpo_of_rankings_is_plackett_luce_of_the_implicit_reward() -> None:
    """β log(π/π_ref) = (log 2, 0, log 3): first 2/6, then 1/4: L = log 3 + log 4."""
    loss = DPO(beta=2.0, likelihood=PlackettLuce())
    log_probs = double([[-4.0, -5.0, -6.0]]) + 0.5 * double([[LOG2, 0.0, LOG3]])
    batch = Rankings(log_probs, ref_log_probs=double([[-4.0, -5.0, -6.0]]))
    assert loss(batch).values.item() == pytest.approx(LOG3 + 2 * LOG2)


def test_dpo_reads_what_its_likelihood_reads() -> None:
    """Rao and Kupper, θ = 2, equal rewards: a tie has the probability (4 − 1)/9."""
    loss = DPO(likelihood=RaoKupper())
    assert loss.needs() == {"ref_log_probs", "ranks"} and loss.most_candidates() == 2
    assert DPO(likelihood=PlackettLuce()).most_candidates() is None
    tie = pair(0.0, 0.0, ranks=torch.tensor([[0, 0]]))
    assert loss(tie).values.item() == pytest.approx(math.log(3))


def test_a_likelihood_is_chosen_by_name() -> None:
    chosen: Any = REGISTRY.create("preference", {"name": "dpo", "beta": 0.5, "likelihood": "plackett_luce"})
    assert chosen == DPO(beta=0.5, likelihood=PlackettLuce())
    assert chosen.model_dump() == {"name": "dpo", "beta": 0.5, "likelihood": {"name": "plackett_luce"}}
    with pytest.raises(LabError, match=r"likelihood: .*Did you mean 'plackett_luce'"):
        REGISTRY.create("preference", {"name": "dpo", "likelihood": "placket_luce"})


# Labels one by one


def labelled(**more: Any) -> Rankings:
    """Log-ratios 1, −1 and 2; the first desirable; mismatched log-ratios 1, 0 and 2."""
    zero = torch.zeros(3, 1, dtype=torch.float64)
    given: dict[str, Any] = {
        "ref_log_probs": zero - 4,
        "desirable": torch.tensor([[True], [False], [False]]),
        "mismatched_log_probs": double([[-3.0], [-4.0], [-2.0]]),
        "mismatched_ref_log_probs": zero - 4,
    }
    return Rankings(double([[-3.0], [-5.0], [-2.0]]), **(given | more))


def test_kto_by_hand() -> None:
    """z = (1 + 0 + 2)/3 = 1: gains 0, −2 and 1; losses lam_d σ(0), lam_u σ(−2), lam_u σ(1)."""
    loss = KTO(beta=1.0, lam_d=3.0, lam_u=2.0)(labelled())
    assert loss.values.tolist() == pytest.approx([1.5, 2 / (1 + math.exp(2)), 2 / (1 + math.exp(-1))])
    assert loss.weights is not None and loss.weights.tolist() == [1.0, 1.0, 1.0]
    assert loss.metrics["accuracy"].tolist() == [0.0, 1.0, 0.0]  # at z, below it and above it
    assert loss.metrics["reference_point"].tolist() == [1.0, 1.0, 1.0]


def test_a_negative_reference_point_is_none() -> None:
    low = KTO(beta=1.0)(labelled(mismatched_log_probs=double([[-5.0], [-6.0], [-7.0]])))
    assert low.values.tolist() == pytest.approx([1 / (1 + math.e), 1 / (1 + math.e), 1 / (1 + math.exp(-2))])


def test_runs_have_reference_points_of_their_own() -> None:
    """The second run's mismatched log-ratios are all 0: z = 0."""
    one, other = labelled(), labelled(mismatched_log_probs=double([[-4.0], [-4.0], [-4.0]]))
    names = ("ref_log_probs", "desirable", "mismatched_log_probs", "mismatched_ref_log_probs")
    both = Rankings(
        torch.stack([one.log_probs, other.log_probs]),
        **{name: torch.stack([getattr(one, name), getattr(other, name)]) for name in names},
    )
    loss = KTO(beta=1.0)
    assert torch.equal(loss(both).values, torch.stack([loss(one).values, loss(other).values]))


# Rows that are not whole


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.name)
def test_a_missing_response_leaves_no_trace(loss: Any) -> None:
    """NaN where a response is missing; the whole pair beside it is as it is alone."""
    tokens = torch.full((2, 2, 3), -0.5, dtype=torch.float64)
    tokens[1, 1] = NAN
    numbers = double([[-1.5, -1.5], [-1.5, NAN]])
    counted = torch.ones(2, 2, 3, dtype=torch.bool)
    given = {
        **dict.fromkeys(("ref_log_probs", "mismatched_log_probs", "mismatched_ref_log_probs", "token_kl"), numbers),
        **dict.fromkeys(("targets", "gains"), numbers),
        **dict.fromkeys(("margins", "preference_prob"), double([1.0, 1.0])),
        "lengths": torch.tensor([[3, 3], [3, 0]]),
        "desirable": torch.tensor([[True, False], [True, False]]),
        "token_ref_log_probs": tokens,
        "token_valid": counted,
        "valid": torch.tensor([[True, True], [True, False]]),
    }
    live, live_tokens = numbers.clone().requires_grad_(), tokens.clone().requires_grad_()
    found: Loss = loss(Rankings(live, token_log_probs=live_tokens, **given))
    assert found.weights is not None and bool(found.values.isfinite().all())
    slopes = torch.autograd.grad((found.weights * found.values).sum(), [live, live_tokens], allow_unused=True)
    assert all(x is None or bool(x.isfinite().all() and (x[1, 1] == 0).all()) for x in slopes)
    if loss.most_candidates() == 2:
        assert found.weights.tolist() == [1.0, 0.0]
    assert all(bool(metric.isfinite().all()) for metric in found.metrics.values())


def test_a_pair_is_told_of_in_metrics() -> None:
    loss = DPO(beta=0.5)(
        Rankings(double([[-1.0, -2.0], [-3.0, -1.0], [-2.0, -2.0]]), ref_log_probs=double([[0.0] * 2] * 3))
    )
    assert loss.metrics["margin"].tolist() == [0.5, -1.0, 0.0]
    assert loss.metrics["accuracy"].tolist() == [1.0, 0.0, 0.5]


# Extremes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("loss", "far_right", "far_wrong"),
    [  # a = ±8000 and b = ∓8000 with β = 1: the loss where it stays a number of its own size
        (DPO(beta=1.0), 0.0, 16000.0),
        (CautiousDPO(beta=1.0, label_smoothing=0.25), 4000.0, 12000.0),
        (RobustDPO(beta=1.0, label_smoothing=0.25), -8000.0, 24000.0),
        (IPO(beta=1.0), 15999.5**2, 16000.5**2),
        (Hinge(beta=1.0), 0.0, 16001.0),
        (EXO(beta=1.0, label_smoothing=0.25), math.log(4 / 3), math.log(4)),
        (NCA(beta=1.0), 4000.0, 12000.0),
        (APOZero(beta=1.0), 0.0, 2.0),
        (APODown(beta=1.0), 1.0, 1.0),
        (DiscoPOP(beta=1.0), 0.0, 16000.0),
        (DPOP(beta=1.0, lam=1.0), 0.0, 24000.0),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_margins_of_thousands_are_finite(loss: Any, far_right: float, far_wrong: float, dtype: torch.dtype) -> None:
    for sign, due in ((1, far_right), (-1, far_wrong)):
        reference = torch.full((1, 2), -8000.0, dtype=dtype)
        log_probs = (reference + sign * torch.tensor([[8000.0, -8000.0]], dtype=dtype)).requires_grad_()
        values = loss(Rankings(log_probs, ref_log_probs=reference)).values
        assert values.item() == pytest.approx(due, rel=1e-6, abs=1e-6)
        assert bool(torch.autograd.grad(values.sum(), log_probs)[0].isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_certain_responses_have_finite_odds(dtype: torch.dtype) -> None:
    """p = 1 − 1e-9 for both: odds 1e9 each, so their ratio is 1."""
    log_probs = torch.full((1, 2), -1e-9, dtype=dtype, requires_grad=True)
    values = ORPO(lam=1.0)(Rankings(log_probs, lengths=torch.ones(1, 2, dtype=torch.long))).values
    assert values.item() == pytest.approx(LOG2, rel=1e-6)
    (slope,) = torch.autograd.grad(values.sum(), log_probs)
    assert slope[0].tolist() == pytest.approx([-0.5e9, 0.5e9], rel=1e-6)


def test_a_rare_response_pulls_with_bounded_force() -> None:
    """u = e^−8000 under the forward divergence: beyond e^60 the exponential goes on as its tangent."""
    for dtype in (torch.float64, torch.float32):
        log_probs = torch.tensor([[-8000.0, 0.0]], dtype=dtype, requires_grad=True)
        values = FDPO(beta=1.0, divergence="forward")(
            Rankings(log_probs, ref_log_probs=torch.zeros(1, 2, dtype=dtype))
        ).values
        assert values.item() == pytest.approx(math.exp(60) * (8000 - 59), rel=1e-5)
        (slope,) = torch.autograd.grad(values.sum(), log_probs)
        assert float(slope[0, 0]) == pytest.approx(-math.exp(60), rel=1e-5)


# Words


def test_pairs_refuse_other_rankings() -> None:
    batch = Rankings(torch.zeros(1, 3), ref_log_probs=torch.zeros(1, 3))
    with pytest.raises(Refused, match="a loss on pairs compares two responses, found 3 in one row"):
        DPO()(batch)
    with pytest.raises(Refused, match="found rows of 1; take one on single responses, such as sft or kto"):
        DPO()(Rankings(torch.zeros(1, 1), ref_log_probs=torch.zeros(1, 1)))


@pytest.mark.parametrize("loss", [loss for loss in ALL if loss.needs()], ids=lambda loss: loss.name)
def test_a_missing_field_is_named(loss: Any) -> None:
    with pytest.raises(
        LabError, match=rf"^preference '{loss.name}': Rankings\.\w+: this loss reads .*found None"
    ) as told:
        call(loss, Rankings(torch.zeros(1, 2)))
    assert isinstance(told.value.__cause__, BatchError)


def test_a_name_of_several_papers_is_qualified() -> None:
    """No bare rpo; each of the three says which it is and names the others."""
    names = {component.name for component in REGISTRY.components("preference")}
    several = {"rpo_iterative", "rpo_sft", "rpo_reward_aware"}
    assert "rpo" not in names and several <= names
    for name in several:
        text = REGISTRY.get("preference", name).__doc__ or ""
        assert "Three papers call their loss RPO" in text
        assert all(other in text for other in several - {name})
    assert "means several losses" in (DPO.__doc__ or "")


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.name)
def test_every_loss_says_what_it_is(loss: Component) -> None:
    text = type(loss).__doc__ or ""
    assert "``L = " in text and "Source: " in text and "Reads ``" in text
    assert loss.implements == loss.name and loss.stacked
    assert all(info.description for info in type(loss).model_fields.values())

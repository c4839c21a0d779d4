"""Wrapped peers: missing ones are told of and harmless; installed ones answer with their own numbers."""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_lab.components import Component
from rlhf_lab.conformance import properties_for, verify
from rlhf_lab.conformance.views import VIEWS, view
from rlhf_lab.errors import LabError
from rlhf_lab.listing import listed
from rlhf_lab.registry import Registry, UnknownComponentError, load_plugins
from rlhf_lab.types import PolicyBatch, Rankings, Refused, Scores, Trajectories

MODULES = {"sb3": "stable_baselines3", "torchrl": "torchrl", "trl": "trl"}
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    """Return what loads some peers and no installed plugin."""
    monkeypatch.setenv("RLHF_LAB_PLUGINS", "")
    return lambda *peers: load_plugins([f"rlhf_lab_peers.{peer}" for peer in peers])


def hide(monkeypatch: pytest.MonkeyPatch, peer: str) -> None:
    """Make a peer look as if it were not installed."""
    monkeypatch.setitem(sys.modules, MODULES[peer], None)
    monkeypatch.delitem(sys.modules, f"rlhf_lab_peers.{peer}", raising=False)


def made(registry: Registry, role: str, name: str, **parameters: Any) -> Component:
    """Return a component of a peer, or skip where that is not installed."""
    pytest.importorskip(MODULES[name.partition("@")[2]])
    return registry.get(role, name)(**parameters)


def answer(component: Component, case: Any) -> dict[str, Tensor]:
    return dict(view(component.role).call(component, case))


# Missing peers


@pytest.mark.parametrize("peer", MODULES)
def test_a_missing_peer_is_told_of_when_asked_and_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, alone: Callable[..., Registry], peer: str
) -> None:
    for each in MODULES:
        hide(monkeypatch, each)
    registry = alone(*MODULES)
    assert registry.broken == [] and len(registry.missing) == 3
    (told,) = [each for each in listed(registry, None, broken_only=True)["broken"] if peer in each["source"]]
    assert told["reason"].endswith("is not installed; pip install 'rlhf-lab[bench]'")
    assert listed(registry, None)["broken"] == []


def test_a_missing_peer_is_named_where_its_component_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, alone: Callable[..., Registry]
) -> None:
    hide(monkeypatch, "sb3")
    registry = alone("sb3")
    with pytest.raises(UnknownComponentError, match="stable-baselines3 is not installed"):
        registry.find("gae@sb3")
    with pytest.raises(UnknownComponentError, match=r"^((?!not installed).)*$"):
        registry.find("gea")


def test_a_missing_peer_is_no_noise(monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]) -> None:
    for peer in MODULES:
        hide(monkeypatch, peer)
    code, out, err = command("list", "advantage")
    assert (code, err) == (0, "") and "not installed" not in out
    code, _, err = command("list", "--plugin", "rlhf_lab_peers.sb3")
    assert code == 2 and "stable-baselines3 is not installed" in err


# What every wrapper is


@pytest.mark.parametrize("peer", MODULES)
def test_wrappers_are_sound_components(alone: Callable[..., Registry], peer: str) -> None:
    pytest.importorskip(MODULES[peer])
    registry = alone(peer)
    assert registry.broken == registry.missing == []
    for cls in registry.components():
        component = cls()
        assert component.name.endswith(f"@{peer}") and "Source:" in (cls.__doc__ or "") and component.reference
        if component.role in VIEWS:
            assert properties_for(component, registry)


def test_every_note_is_about_a_law_of_a_wrapper(
    monkeypatch: pytest.MonkeyPatch, alone: Callable[..., Registry]
) -> None:
    for module in MODULES.values():
        pytest.importorskip(module)
    monkeypatch.syspath_prepend(BENCHMARKS)
    from peers_notes import NOTES

    registry = alone(*MODULES)
    for name, law in NOTES:
        assert law in {each.id for each in properties_for(registry.find(name), registry)}, name


# Numbers by hand


def trajectories(**changes: Any) -> Trajectories:
    """Return three steps of one row: the second is truncated where V(s') = 4, the row stops live where V(s') = 8."""
    rewards = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    none = torch.zeros(1, 3, dtype=torch.bool)
    given = {
        "rewards": rewards,
        "terminated": none,
        "truncated": torch.tensor([[False, True, False]]),
        "valid": ~none,
        "values": torch.tensor([[2.0, 1.0, 1.0]], dtype=torch.float64),
        "next_values": torch.tensor([[1.0, 4.0, 8.0]], dtype=torch.float64),
    }
    return Trajectories(**(given | changes))


@pytest.mark.parametrize(
    ("name", "lam"), [("gae@sb3", "gae_lambda"), ("gae@torchrl", "lmbda"), ("gae_vec@torchrl", "lmbda")]
)
def test_gae_of_peers(alone: Callable[..., Registry], name: str, lam: str) -> None:
    """γ = λ = 1/2: δ = (1 + ½ − 2, 2 + 2 − 1, 3 + 4 − 1) = (−½, 3, 6); A₀ = −½ + ¼·3, and no sum crosses the cut."""
    gae = made(alone(name.partition("@")[2]), "advantage", name, gamma=0.5, **{lam: 0.5})
    found = answer(gae, trajectories())
    assert found["A"].tolist() == [[0.25, 3.0, 6.0]]
    assert found["returns"].tolist() == [[2.25, 4.0, 7.0]]


def test_estimators_without_a_mask_refuse_one(alone: Callable[..., Registry]) -> None:
    gae = made(alone("sb3"), "advantage", "gae@sb3")
    valid = torch.tensor([[True, True, False]])
    with pytest.raises(LabError, match="has no mask") as raised:
        answer(gae, trajectories(valid=valid))
    assert isinstance(raised.value.__cause__, Refused)


@pytest.mark.parametrize(
    ("name", "odd", "others"),
    [("grpo@trl", 0.75 / 0.5001, -0.25 / 0.5001), ("grpo@torchrl", 1.5, -0.5), ("rloo@trl", 1.0, -1 / 3)],
)
def test_group_advantages_of_peers(alone: Callable[..., Registry], name: str, odd: float, others: float) -> None:
    """Scores 1, 0, 0, 0: mean ¼, sample deviation ½."""
    component = made(alone(name.partition("@")[2]), "advantage", name)
    ends = torch.ones(4, 1, dtype=torch.bool)
    case = Trajectories(
        rewards=torch.tensor([[1.0], [0], [0], [0]], dtype=torch.float64),
        terminated=ends,
        truncated=~ends,
        valid=ends,
        group_ids=torch.zeros(4, dtype=torch.long),
    )
    assert answer(component, case)["A"].flatten().tolist() == pytest.approx([odd, others, others, others], abs=1e-12)


def policy_batch(*ratios: float) -> PolicyBatch:
    """Return one episode with these ratios and advantages of 1."""
    log_ratio = torch.tensor([ratios], dtype=torch.float64).log()
    every = torch.ones(1, len(ratios), dtype=torch.bool)
    ends = torch.arange(len(ratios)) == len(ratios) - 1
    one = torch.ones_like(log_ratio)
    return PolicyBatch(log_ratio - 1, one, every, ends & every, old_log_probs=-one, ref_log_probs=-one)


@pytest.mark.parametrize(
    ("name", "parameters", "loss", "slope"),
    [
        ("ppo_clip@torchrl", {}, (-1.0, -1.2), (-1.0, 0.0)),
        ("ppo_clip@trl", {}, (-1.0, -1.2), (-1.0, 0.0)),
        ("cispo@torchrl", {}, (-1.0, -1.2), (-1.0, 0.0)),  # clipped, hence without gradient
        ("cispo@trl", {}, (0.2, 0.2 * (1 - math.log(2))), (-0.2, -0.2)),  # weight min(ρ, 0.2)
        ("cispo@trl", {"epsilon_high": 1.2}, (1.0, 1.2 * (1 - math.log(2))), (-1.0, -1.2)),
        ("gspo@trl", {"epsilon": 0.5}, (-math.sqrt(2),) * 2, (-math.sqrt(2),) * 2),  # √(1·2) within 1 ± 0.5
        ("rloo@trl", {}, (-1.2, -1.2), (0.0, 0.0)),  # 1·2 is clipped
    ],
)
def test_policy_losses_of_peers(
    alone: Callable[..., Registry],
    name: str,
    parameters: dict[str, float],
    loss: tuple[float, float],
    slope: tuple[float, float],
) -> None:
    """Ratios 1 and 2, A = 1; at ratio 1 either side of a minimum has the slope −A."""
    component = made(alone(name.partition("@")[2]), "objective", name, **parameters)
    found = answer(component, policy_batch(1.0, 2.0))
    assert found["L"].flatten().tolist() == pytest.approx(loss)
    assert found["dL/dlog_probs"].flatten().tolist() == pytest.approx(slope)


@pytest.mark.parametrize(
    ("name", "of_short", "of_long"),
    [("token_mean", 1 / 4, 1 / 4), ("sequence_mean", 1 / 2, 1 / 6), ("sequence_sum", 1 / 2, 1 / 2)],
)
def test_aggregations_of_trl(alone: Callable[..., Registry], name: str, of_short: float, of_long: float) -> None:
    """Completions of one token and of three."""
    weigh = made(alone("trl"), "aggregation", f"{name}@trl")
    valid = torch.tensor([[True, False, False], [True, True, True]])
    found = weigh(valid, torch.zeros_like(valid))  # type: ignore[operator]
    assert (found.weights / found.total.sum())[:, 0].tolist() == pytest.approx([of_short, of_long])


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("dpo@trl", math.log(1 + math.exp(-0.2))),  # β h = 0.1 · 2
        ("hinge@trl", 0.8),
        ("ipo@trl", (0.5 + 0.25 - 5) ** 2),  # 1/2 and −1/4 a token; 1/(2β) = 5
        ("sppo@trl", (1 - 5) ** 2 + (-1 + 5) ** 2),
        ("apo_zero@trl", 1 - 1 / (1 + math.exp(-0.1)) + 1 / (1 + math.exp(0.1))),
        ("bco_pair@trl", 2 * math.log(1 + math.exp(-0.1))),
        ("dpo_norm@trl", math.log(1 + math.exp(-0.1 * 0.75))),
        ("f_dpo_forward@trl", math.log(1 + math.exp(-0.1 * (math.e - 1 / math.e)))),  # 1 − 1/e and 1 − e
        ("simpo@trl", math.log(1 + math.exp(-(0.1 * 0.75 - 0.5)))),  # the reference's log-probabilities are 0
    ],
)
def test_preference_losses_of_trl(alone: Callable[..., Registry], name: str, loss: float) -> None:
    """Log-ratios 1 (two tokens) and −1 (four tokens), β = 0.1."""
    component = made(alone("trl"), "preference", name)
    log_probs = torch.tensor([[1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    batch = Rankings(log_probs, ref_log_probs=torch.zeros_like(log_probs), lengths=torch.tensor([[2, 4]]))
    found = component(batch).values  # type: ignore[operator]
    assert found.tolist() == pytest.approx([loss]) and found.requires_grad


def test_a_pair_with_a_missing_response_is_not_put_to_trl(alone: Callable[..., Registry]) -> None:
    component = made(alone("trl"), "preference", "dpo@trl")
    batch = Rankings(
        torch.tensor([[-1.0, -2.0], [-1.0, math.nan]], dtype=torch.float64),
        ref_log_probs=torch.tensor([[-1.0, -2.0], [-1.0, math.nan]], dtype=torch.float64),
        valid=torch.tensor([[True, True], [True, False]]),
    )
    loss = component(batch)  # type: ignore[operator]
    assert loss.weights.tolist() == [1.0, 0.0] and loss.values.tolist() == pytest.approx([math.log(2), 0.0])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("kto@trl", sigmoid(-0.1 * (1 - 0.5)), sigmoid(0.1 * (-1 - 0.5))),  # z = (2 + 0 − ½) / 3 = ½
        ("apo_zero_unpaired@trl", sigmoid(-0.1), sigmoid(-0.1)),
    ],
)
def test_losses_on_labelled_responses_of_trl(
    alone: Callable[..., Registry], name: str, good: float, bad: float
) -> None:
    """Log-ratios 1 (desirable) and −1 (not) in one row, 1 alone in the next, none in the last; β = 0.1."""
    component = made(alone("trl"), "preference", name, desirable_weight=2.0)
    ratios, mismatched = [[1.0, -1.0], [math.nan, 1.0], [0.0, 0.0]], [[2.0, 0.0], [math.nan, -0.5], [9.0, 9.0]]
    log_probs = torch.tensor(ratios, dtype=torch.float64, requires_grad=True)
    batch = Rankings(
        log_probs,
        ref_log_probs=torch.zeros_like(log_probs),
        mismatched_log_probs=torch.tensor(mismatched, dtype=torch.float64),
        mismatched_ref_log_probs=torch.zeros_like(log_probs),
        desirable=torch.tensor([[True, False], [True, True], [True, False]]),
        valid=torch.tensor([[True, True], [False, True], [False, False]]),
    )
    loss = component(batch)  # type: ignore[operator]
    assert loss.weights.tolist() == [2.0, 1.0, 0.0] and loss.values.requires_grad
    assert loss.values.tolist() == pytest.approx([(2 * good + bad) / 2, 2 * good, 0.0])


def test_kto_of_trl_takes_no_negative_reference_point(alone: Callable[..., Registry]) -> None:
    component = made(alone("trl"), "preference", "kto@trl")
    one = torch.ones(1, 1, dtype=torch.float64)
    batch = Rankings(
        one,
        ref_log_probs=0 * one,
        mismatched_log_probs=-8 * one,
        mismatched_ref_log_probs=0 * one,
        desirable=one.bool(),
    )
    assert component(batch).values.tolist() == pytest.approx([sigmoid(-0.1)])  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("bradley_terry@trl", math.log(1 + math.exp(-1))),
        ("bradley_terry_margin@trl", math.log(1 + math.exp(-0.5))),
        ("bradley_terry_centred@trl", math.log(1 + math.exp(-1)) + 0.01 * 3**2),
    ],
)
def test_losses_of_reward_models_of_trl(alone: Callable[..., Registry], name: str, loss: float) -> None:
    """Scores 2 and 1, margin ½; then a response alone."""
    component = made(alone("trl"), "reward_model", name)
    scores = torch.tensor([[2.0, math.nan, 1.0], [2.0, 1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    batch = Scores(
        scores,
        valid=torch.tensor([[True, False, True], [True, False, False]]),
        margins=torch.tensor([0.5, 0.5], dtype=torch.float64),
    )
    found = component(batch)  # type: ignore[operator]
    assert found.weights.tolist() == [1.0, 0.0] and found.values.requires_grad
    assert found.values.tolist() == pytest.approx([loss, 0.0])


def test_a_ranking_of_three_is_not_put_to_trl(alone: Callable[..., Registry]) -> None:
    component = made(alone("trl"), "reward_model", "bradley_terry@trl")
    with pytest.raises(Refused, match="more than two"):
        component(Scores(torch.zeros(1, 3)))  # type: ignore[operator]


# Verification


@pytest.mark.parametrize(
    "name",
    [
        *("advantage/gae@sb3", "advantage/v_trace@torchrl", "objective/ppo_clip@trl", "aggregation/token_mean@trl"),
        *("preference/dpo@trl", "preference/ld_dpo@trl", "preference/kto@trl", "preference/simpo@trl"),
        *("reward_model/bradley_terry_margin@trl", "reward_model/bradley_terry_centred@trl"),
    ],
)
def test_sound_peers_hold_their_laws(alone: Callable[..., Registry], name: str) -> None:
    role, _, bare = name.partition("/")
    registry = alone(bare.partition("@")[2])
    component = type(made(registry, role, bare))
    wanted = [law.id for law in properties_for(component, registry)]
    verdicts = verify(component, examples=40, registry=registry, only=wanted)
    assert [v.property.id for v in verdicts if v.status == "failed"] == []
    assert f"is-{component.implements}".replace("_", "-") in [v.property.id for v in verdicts if v.status == "passed"]


# Defaults


def test_defaults_are_those_of_sb3(alone: Callable[..., Registry]) -> None:
    gae = made(alone("sb3"), "advantage", "gae@sb3")
    from stable_baselines3.common.buffers import RolloutBuffer

    theirs = inspect.signature(RolloutBuffer).parameters
    assert {name: theirs[name].default for name in type(gae).model_fields} == dict(gae)


def test_defaults_are_those_of_torchrl(alone: Callable[..., Registry]) -> None:
    registry = alone("torchrl")
    gae, clip = made(registry, "advantage", "gae@torchrl"), made(registry, "objective", "ppo_clip@torchrl")
    v_trace, adaptive = (
        made(registry, "advantage", "v_trace@torchrl"),
        made(registry, "controller", "adaptive_kl@torchrl"),
    )
    from torchrl.objectives import ClipPPOLoss, KLPENPPOLoss, ValueEstimators
    from torchrl.objectives.utils import default_value_kwargs
    from torchrl.objectives.value.functional import vtrace_advantage_estimate

    assert dict(gae).items() <= default_value_kwargs(ValueEstimators.GAE).items()
    for component, theirs in ((clip, ClipPPOLoss), (adaptive, KLPENPPOLoss), (v_trace, vtrace_advantage_estimate)):
        found = {name: x.default for name, x in inspect.signature(theirs).parameters.items()}
        ours = {name: x for name, x in dict(component).items() if name != "gamma"}
        assert ours == {name: found[name] for name in ours}


@pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'")
def test_defaults_are_those_of_trl(alone: Callable[..., Registry]) -> None:
    pytest.importorskip("trl")
    from trl import DPOConfig, GRPOConfig, KTOConfig, RewardConfig, RLOOConfig
    from trl.experimental.cpo import CPOConfig

    configs = {
        **{"preference": DPOConfig, "reward_model": RewardConfig, "rloo@trl": RLOOConfig, "simpo@trl": CPOConfig},
        **{"kto@trl": KTOConfig, "apo_zero_unpaired@trl": KTOConfig},
    }
    ours_alone = {
        "bradley_terry_centred@trl": {"center_rewards_coefficient"},
        "cispo@trl": {"epsilon_high"},
        "exo_pair@trl": {"label_smoothing"},
        "ld_dpo@trl": {"ld_alpha"},
    }  # which TRL derives, or refuses
    for cls in alone("trl").components():
        config = configs.get(cls.name) or configs.get(cls.role, GRPOConfig)
        theirs = {item.name: item.default for item in dataclasses.fields(config)}
        own = {name: x for name, x in dict(cls()).items() if name not in ours_alone.get(cls.name, set())}
        assert own == {name: theirs[name] for name in own}, cls.name

"""Same name, different number: one small case per question, what everybody answers, and the axis that explains it.

``record`` is our definition of record; ``name@peer`` is a peer with its own defaults, unless parameters are shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf_lab.components import Component
from rlhf_lab.conformance import definition
from rlhf_lab.conformance.inputs import LogProbs, Masks
from rlhf_lab.conformance.views import view
from rlhf_lab.errors import LabError
from rlhf_lab.registry import Registry, UnknownComponentError
from rlhf_lab.types import PolicyBatch, Rankings, Trajectories

__all__ = ["Difference", "differences"]


class Difference(NamedTuple):
    """A question, the answers by name, and why they differ."""

    question: str
    answers: dict[str, str]
    axis: str


def differences(registry: Registry) -> list[Difference]:
    """Return every question that at least two of those that are installed answer."""
    found = [make(_Asker(registry)) for make in _QUESTIONS]
    return [each for each in found if len(each.answers) > 1]


class _Asker:
    """Asks components by name; one that is not installed gives no answer."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.answers: dict[str, str] = {}

    def record(
        self, role: str, name: str, case: Any, show: Callable[[dict[str, Tensor]], str], **parameters: Any
    ) -> None:
        of = definition(role, name)
        self.answers[_label(f"{name}, record", parameters)] = show(
            dict(of.answer(case, **{**of.parameters, **parameters}))
        )

    def ask(self, role: str, name: str, case: Any, show: Callable[[dict[str, Tensor]], str], **parameters: Any) -> None:
        try:
            component: Component = self.registry.get(role, name)(**parameters)
        except UnknownComponentError:
            return
        try:
            answer = show(dict(view(role).call(component, case)))
        except LabError as error:
            answer = str(error).split(": ", 1)[-1]
        self.answers[_label(name, parameters)] = answer

    def told(self, question: str, axis: str) -> Difference:
        return Difference(question, self.answers, axis)


def _label(name: str, parameters: dict[str, Any]) -> str:
    return ", ".join([name, *(f"{key}={value:g}" for key, value in parameters.items())])


def _at(symbol: str, *index: int) -> Callable[[dict[str, Tensor]], str]:
    return lambda answer: f"{float(answer[symbol][index]):.5g}"


def _row(symbol: str) -> Callable[[dict[str, Tensor]], str]:
    return lambda answer: ", ".join(f"{float(x):.5g}" for x in answer[symbol].flatten())


def _scores(*scores: float) -> Trajectories:
    rewards = torch.tensor(scores, dtype=torch.float64)[:, None]
    ends = torch.ones_like(rewards, dtype=torch.bool)
    ids = torch.zeros(len(scores), dtype=torch.long)
    return Trajectories(rewards=rewards, terminated=ends, truncated=~ends, valid=ends, group_ids=ids)


def _groups(*scores: float) -> Callable[[_Asker], Difference]:
    def make(asker: _Asker) -> Difference:
        case, show = _scores(*scores), _row("A") if len(scores) < 5 else _at("A", 0, 0)
        for name in ("grpo", "grpo_mean", "rloo"):
            asker.record("advantage", name, case, show)
        for name in ("grpo@trl", "grpo@torchrl", "grpo_batch@trl", "grpo_mean@trl", "rloo@trl"):
            asker.ask("advantage", name, case, show)
        shown = "0 and seven times 0.95; of the odd one" if len(scores) > 4 else ", ".join(f"{x:g}" for x in scores)
        axis = "divisor: sample deviation + 1e-4, max(sample deviation, 1e-6), or none; own score in the mean or not"
        return asker.told(f"advantages of a group with scores {shown}", f"{axis}; a response alone: 0 or refused")

    return make


def _gap(observed: float) -> Callable[[_Asker], Difference]:
    def make(asker: _Asker) -> Difference:
        rewards = torch.tensor([[0.0, 0, 0, 1]], dtype=torch.float64)
        values = torch.tensor([[0.5, observed, observed, 0.5]], dtype=torch.float64)
        ends, none = rewards.bool(), torch.zeros(1, 4, dtype=torch.bool)
        every = Trajectories(
            rewards=rewards, terminated=ends, truncated=none, valid=~none, values=values, next_values=values.roll(-1, 1)
        )
        actions = torch.tensor([[True, False, False, True]])
        behind = torch.tensor([[0.5, 0, 0, 0]], dtype=torch.float64)
        masked = Trajectories(
            rewards=rewards, terminated=ends, truncated=none, valid=actions, values=values, next_values=behind
        )
        asker.record("advantage", "gae", masked, _at("returns", 0, 0), gamma=1.0)
        for name, lam in (("gae@sb3", "gae_lambda"), ("gae@torchrl", "lmbda")):
            asker.ask("advantage", name, every, _at("returns", 0, 0), gamma=1.0, **{lam: 0.95})
        return asker.told(
            f"return at the first action of action, observation, observation, action (r = 1 at the end, V = 0.5, "
            f"V(observation) = {observed:g})",
            "mask: here observations pass credit on undecayed; the peers have no mask and refuse one, so that "
            "observations can only be given as steps, as shown",
        )

    return make


def _default_lambda(asker: _Asker) -> Difference:
    rewards = torch.tensor([[0.0, 1]], dtype=torch.float64)
    none, zeros = torch.zeros(1, 2, dtype=torch.bool), torch.zeros_like(rewards)
    case = Trajectories(
        rewards=rewards, terminated=rewards.bool(), truncated=none, valid=~none, values=zeros, next_values=zeros
    )
    asker.record("advantage", "gae", case, _at("A", 0, 0))
    for name in ("gae@sb3", "gae@torchrl", "gae_vec@torchrl"):
        asker.ask("advantage", name, case, _at("A", 0, 0))
    return asker.told(
        "first advantage of rewards 0, 1 with V = 0, at the defaults", "default λ: 0.95, or 1 (the buffer's)"
    )


def _policy(log_ratios: list[float], advantages: list[float], ref: float | None = None) -> PolicyBatch:
    ratio = torch.tensor([log_ratios], dtype=torch.float64)
    ends = torch.zeros_like(ratio, dtype=torch.bool)
    ends[:, -1] = True
    return PolicyBatch(
        log_probs=ratio - 1,
        advantages=torch.tensor([advantages], dtype=torch.float64),
        valid=torch.ones_like(ends),
        ends=ends,
        old_log_probs=torch.full_like(ratio, -1),
        ref_log_probs=None if ref is None else ratio - 1 + ref,
    )


def _cispo(asker: _Asker) -> Difference:
    case, show = _policy([0.0, math.log(2)], [1.0, 1.0]), _row("dL/dlog_probs")
    asker.record("objective", "cispo", case, show, clip_high=0.2)
    asker.ask("objective", "cispo@trl", case, show)
    asker.ask("objective", "cispo@trl", case, show, epsilon_high=1.2)
    asker.ask("objective", "cispo@torchrl", case, show)
    return asker.told(
        "CISPO: dL/dlog π at ratios 1 and 2, A = 1",
        "clip bounds: 1 + ε or ε itself; whether the gradient stops at the clipped ratio or vanishes with it",
    )


def _sequences(asker: _Asker) -> Difference:
    case, show = _policy([math.log(1.15)] * 2, [1.0, 1.0]), _row("L")
    asker.record("objective", "ppo_clip", case, show)
    asker.record("objective", "gspo", case, show)
    for name in ("ppo_clip@trl", "ppo_clip@torchrl", "gspo@trl", "rloo@trl"):
        asker.ask("objective", name, case, show)
    return asker.told(
        "clipped surrogate of a response of two tokens, each with ratio 1.15, A = 1",
        "the ratio: of the token, the geometric mean or the product over the response; clip bounds: 0.2, or "
        "GSPO's 4e-4",
    )


def _penalised(asker: _Asker) -> Difference:
    case, show = _policy([0.0], [0.0], ref=math.log(2)), _row("dL/dlog_probs")
    asker.record("objective", "grpo", case, show, beta=1.0)
    asker.ask("objective", "grpo@trl", case, show, beta=1.0)
    asker.ask("objective", "grpo@trl", case, show, beta=1.0, use_bias_correction_kl=False)
    return asker.told("GRPO's KL penalty: its dL/dlog π at ratio 1, π_ref/π = 2, β = 1", "whether ρ multiplies k3")


def _k3(asker: _Asker) -> Difference:
    policy = torch.full((1, 1), -1.0, dtype=torch.float64)
    plain, weighed = LogProbs(policy, policy + math.log(2)), LogProbs(policy, policy + math.log(2), policy.clone())

    def show(answer: dict[str, Tensor]) -> str:
        return f"{_row('KL')(answer)} with slope {_row('dKL/dlog_probs')(answer)}"

    asker.record("kl", "k3", plain, show)
    asker.ask("kl", "k3@torchrl", plain, show)
    asker.ask("kl", "k3_plain@trl", plain, show)
    asker.ask("kl", "k3@trl", weighed, show)
    return asker.told(
        "k3 and its slope at π_ref/π = 2, on policy", "ρ, which is 1 but has a gradient: on by default in TRL"
    )


def _distributions(asker: _Asker) -> Difference:
    policy = torch.tensor([[[0.8, 0.2]]], dtype=torch.float64).log()
    case = LogProbs(policy, torch.full_like(policy, math.log(0.5)))

    def show(answer: dict[str, Tensor]) -> str:
        return f"{_row('KL')(answer)} with slope {_row('dKL/dlogits')(answer)}"

    asker.record("kl", "full", case, show)
    asker.ask("kl", "kl_penalty@torchrl", case, show)
    return asker.told(
        "divergence of π = (0.8, 0.2) and π_ref = (0.5, 0.5), and its slope by the logits",
        "order: KL(π ‖ π_ref) or, as in PPO's penalty, KL(π_ref ‖ π) with slope (0.3, −0.3); see the note on beta",
    )


def _lengths(*lengths: int) -> Callable[[_Asker], Difference]:
    def make(asker: _Asker) -> Difference:
        valid = torch.arange(3) < torch.tensor(lengths)[:, None]
        case = Masks(torch.zeros(valid.shape, dtype=torch.float64), valid, torch.zeros_like(valid))
        for name in ("token_mean", "sequence_mean", "sequence_sum"):
            asker.record("aggregation", name, case, _at("share", 0, 0))
        asker.record("aggregation", "constant", case, _at("share", 0, 0), length=3)
        for name in ("token_mean", "sequence_mean", "sequence_sum"):
            asker.ask("aggregation", f"{name}@trl", case, _at("share", 0, 0))
        asker.ask("aggregation", "constant@trl", case, _at("share", 0, 0), max_completion_length=3)
        for name in ("token_mean", "sequence_mean", "kl_token_mean"):
            asker.ask("aggregation", f"{name}@torchrl", case, _at("share", 0, 0))
        return asker.told(
            f"weight of the only token of a response, beside others of length {', '.join(map(str, lengths[1:]))}",
            "aggregation; whether a response without a token counts as one, and a masked position as a token",
        )

    return make


def _ipo(asker: _Asker) -> Difference:
    case = Rankings(
        log_probs=torch.tensor([[1.0, -1.0]], dtype=torch.float64),
        ref_log_probs=torch.zeros(1, 2, dtype=torch.float64),
        lengths=torch.tensor([[2, 4]]),
        valid=torch.ones(1, 2, dtype=torch.bool),
    )
    asker.record("preference", "ipo", case, _row("L"))
    asker.ask("preference", "ipo@trl", case, _row("L"))
    return asker.told(
        "IPO of log-ratios 1 (two tokens) and −1 (four tokens), β = 0.1",
        "sums over tokens, or means: (0.5 + 0.25 − 5)² in TRL",
    )


def _simpo(asker: _Asker) -> Difference:
    case = Rankings(
        log_probs=torch.tensor([[-1.0, -4.0]], dtype=torch.float64),
        lengths=torch.tensor([[1, 2]]),
        valid=torch.ones(1, 2, dtype=torch.bool),
    )
    for parameters in ({}, {"beta": 0.1, "gamma": 0.5}):
        asker.record("preference", "simpo", case, _row("L"), **parameters)
    asker.ask("preference", "simpo@trl", case, _row("L"))
    return asker.told(
        "SimPO of log-probabilities −1 (one token) and −4 (two tokens), at the defaults",
        "default β and γ: 2 and 1, or 0.1 and 0.5; the log-probability per token of the chosen response is held γ/β "
        "above the other's, ½ or 5",
    )


_QUESTIONS: list[Callable[[_Asker], Difference]] = [
    *(_groups(1, 0, 0, 0), _groups(1), _groups(0, *[0.95] * 7)),
    *(_gap(0), _gap(100), _default_lambda),
    *(_cispo, _sequences, _penalised, _k3, _distributions),
    *(_lengths(1, 3), _lengths(1, 3, 0)),
    *(_ipo, _simpo),
]

"""Definitions of record of role preference: the loss of a row, and by hand its slope in each log-probability.

Throughout a and b are log(π/π_ref) of the chosen and of the rejected response, w and l their log-probabilities, |w| and
|l| their lengths, and h = a − b.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.conformance.definitions.candidatewise import Row, candidatewise
from rlhf_lab.conformance.definitions.definition import Definition, definition
from rlhf_lab.conformance.definitions.responses import coin, kink, log_ratios, per_token
from rlhf_lab.types import Rankings, Scores

__all__ = ["DEFINITIONS"]

Slopes = tuple[float, Sequence[float]]

_BETA: Final = {"beta": 0.1}
_SMOOTHED: Final = {"beta": 0.1, "label_smoothing": 0.1}
_STRAIGHT: Final = 60.0  # where the exponentials of f_dpo go on as straight lines
_HELD: Final = -1e-12  # the largest log-probability per token of orpo's odds


def _margin(row: Row) -> float:
    a, b = log_ratios(row)
    return a - b


def _even(loss: float, slope: float) -> Slopes:
    """Return the slopes of a loss of h: equal and opposite."""
    return loss, (slope, -slope)


def _dpo(row: Row, beta: float) -> Slopes:
    preference = coin(beta * _margin(row))
    return _even(preference.heads_surprise, -beta * preference.tails)


def _likelihood(batch: Rankings, beta: float, likelihood: Any) -> Mapping[str, Tensor]:
    """Apply the definition of record of a reward model's likelihood to β times the log-ratio."""
    if likelihood is None or likelihood.implements == "bradley_terry":
        return candidatewise(_dpo, field="log_probs")(batch, beta=beta)
    if likelihood.implements is None:
        return {}
    of = definition("reward_model", likelihood.implements)
    assert batch.ref_log_probs is not None
    rewards = beta * (batch.log_probs.detach() - batch.ref_log_probs)
    labels = {name: getattr(batch, name) for name in ("valid", *of.reads)}
    found = dict(of.answer(Scores(rewards, **labels), **_parameters(likelihood, of)))
    return {**found, "dL/dlog_probs": beta * found.pop("dL/dscores")}


def _parameters(component: Any, of: Definition) -> dict[str, Any]:
    named = {name: component.conventions.get(name, name) for name in of.parameters}
    return {name: getattr(component, str(own), of.parameters[name]) for name, own in named.items()}


def _cdpo(row: Row, beta: float, label_smoothing: float) -> Slopes:
    preference, e = coin(beta * _margin(row)), label_smoothing
    loss = (1 - e) * preference.heads_surprise + e * preference.tails_surprise
    return _even(loss, beta * (e - preference.tails))


def _robust_dpo(row: Row, beta: float, label_smoothing: float) -> Slopes:
    preference, e = coin(beta * _margin(row)), label_smoothing
    loss = (1 - e) * preference.heads_surprise - e * preference.tails_surprise
    slope = -(1 - e) * preference.tails - e * preference.heads
    return _even(loss / (1 - 2 * e), beta * slope / (1 - 2 * e))


def _ipo(row: Row, beta: float, soft_labels: bool) -> Slopes:
    chance = row.whole["preference_prob"] if soft_labels else 1.0
    off = _margin(row) - (chance - 0.5) / beta
    return _even(off**2, 2 * off)


def _hinge(row: Row, beta: float) -> Slopes:
    lacking = 1 - beta * _margin(row)
    return _even(max(0.0, lacking), kink(lacking, 0.0, -beta))


def _exo(row: Row, beta: float, label_smoothing: float) -> Slopes:
    margin, e = beta * _margin(row), label_smoothing
    q, rest, surprise, other = coin(margin)
    loss = -q * (surprise + math.log(1 - e)) - rest * (other + math.log(e))
    return _even(loss, beta * q * rest * (margin - math.log((1 - e) / e)))


def _rpo_reward_aware(row: Row, beta: float, eta: float) -> Slopes:
    preference, due = coin(beta * _margin(row)), coin(eta * row.whole["margins"])
    loss = due.heads * (preference.heads_surprise - due.heads_surprise)
    loss += due.tails * (preference.tails_surprise - due.tails_surprise)
    return _even(loss, beta * (preference.heads - due.heads))


def _discopop(row: Row, beta: float, tau: float) -> Slopes:
    z = beta * _margin(row)
    gate, logistic = coin(z / tau), coin(z)
    steep = float((Decimal(-gate.heads_surprise) - Decimal(z)).exp())  # g e^{-z}, of which either may overflow
    rise = gate.tails / tau * steep - gate.heads * gate.tails / tau * logistic.heads_surprise
    loss = gate.tails * logistic.heads_surprise + steep
    return _even(loss, beta * (rise - gate.tails * logistic.tails - steep))


def _f_dpo(row: Row, beta: float, divergence: str, alpha: float) -> Slopes:
    (first, rise), (second, other_rise) = (_of_divergence(x, divergence, alpha) for x in log_ratios(row))
    preference = coin(beta * (first - second))
    pull = beta * preference.tails
    return preference.heads_surprise, (-pull * rise, pull * other_rise)


def _of_divergence(a: float, divergence: str, alpha: float) -> tuple[float, float]:
    """Return f'(u) at u = e^a up to a number, and its derivative by a."""
    if divergence == "reverse":
        return a, 1.0
    if divergence == "js":
        relative = coin(a)
        return -relative.heads_surprise, relative.tails
    order = alpha if divergence == "alpha" else 1.0
    if -order * a > _STRAIGHT:
        return (1 - math.exp(_STRAIGHT) * (1 - order * a - _STRAIGHT)) / order, math.exp(_STRAIGHT)
    return (1 - math.exp(-order * a)) / order, math.exp(-order * a)


def _dpop(row: Row, beta: float, lam: float) -> Slopes:
    a, b = log_ratios(row)
    preference = coin(beta * (a - b - lam * max(0.0, -a)))
    pull = beta * preference.tails
    return preference.heads_surprise, (-pull * (1 if lam == 0 else kink(a, 1 + lam, 1.0)), pull)


def _sppo(row: Row, beta: float, soft_labels: bool) -> Slopes:
    a, b = log_ratios(row)
    chance = row.whole["preference_prob"] if soft_labels else 1.0
    off, other_off = a - (chance - 0.5) / beta, b - (0.5 - chance) / beta
    return off**2 + other_off**2, (2 * off, 2 * other_off)


def _nca(row: Row, beta: float) -> Slopes:
    chosen, rejected = (coin(beta * x) for x in log_ratios(row))
    loss = chosen.heads_surprise + 0.5 * (chosen.tails_surprise + rejected.tails_surprise)
    return loss, (beta * (0.5 * chosen.heads - chosen.tails), 0.5 * beta * rejected.heads)


def _bco(row: Row, beta: float, shift: float) -> Slopes:
    chosen, rejected = (coin(beta * x - shift) for x in log_ratios(row))
    return chosen.heads_surprise + rejected.tails_surprise, (-beta * chosen.tails, beta * rejected.heads)


def _apo_zero(row: Row, beta: float) -> Slopes:
    chosen, rejected = (coin(beta * x) for x in log_ratios(row))
    slopes = (-beta * chosen.heads * chosen.tails, beta * rejected.heads * rejected.tails)
    return chosen.tails + rejected.heads, slopes


def _apo_down(row: Row, beta: float) -> Slopes:
    a, b = log_ratios(row)
    chosen, preference = coin(beta * a), coin(beta * (a - b))
    pull = beta * preference.heads * preference.tails
    return chosen.heads + preference.tails, (beta * chosen.heads * chosen.tails - pull, pull)


def _kto(batch: Rankings, beta: float, lam_d: float, lam_u: float) -> Mapping[str, Tensor]:
    assert batch.valid is not None
    assert batch.mismatched_log_probs is not None and batch.mismatched_ref_log_probs is not None
    found = (batch.mismatched_log_probs.detach() - batch.mismatched_ref_log_probs)[batch.valid].tolist()
    z = max(0.0, math.fsum(found) / max(len(found), 1))

    def each(row: Row) -> Slopes:
        losses, slopes = [], []
        for a, desirable in zip(log_ratios(row), row.each["desirable"], strict=True):
            good = coin(beta * (a - z))
            losses.append(lam_d * good.tails if desirable else lam_u * good.heads)
            slopes.append((-lam_d if desirable else lam_u) * beta * good.heads * good.tails)
        return math.fsum(losses) / len(losses), slopes

    answer = dict(candidatewise(each, at_least=1, field="log_probs")(batch))
    unmoved = torch.zeros_like(batch.mismatched_log_probs)
    return {**answer, "weights": batch.valid.sum(-1).double(), "dL/dmismatched_log_probs": unmoved}


def _tdpo(batch: Rankings, beta: float, alpha: float, stop_gradient: bool) -> Mapping[str, Tensor]:
    def told(row: Row) -> tuple[float, float]:
        first, second = row.each["token_kl"]
        ratios = [own - ref for own, ref in zip(row.each["log_probs"], row.each["ref_log_probs"], strict=True)]
        preference = coin(beta * (ratios[0] - ratios[1] - alpha * (second - first)))
        return preference.heads_surprise, beta * preference.tails

    def response(row: Row) -> Slopes:
        loss, pull = told(row)
        return loss, (-pull, pull)

    def divergence(row: Row) -> Slopes:
        loss, pull = told(row)
        return loss, (0.0 if stop_gradient else -alpha * pull, alpha * pull)

    return {**candidatewise(divergence, field="token_kl")(batch), **candidatewise(response, field="log_probs")(batch)}


def _ld_dpo(batch: Rankings, beta: float, alpha: float) -> Mapping[str, Tensor]:
    """Add up tokens one by one, each with its weight."""
    assert batch.token_log_probs is not None and batch.token_ref_log_probs is not None
    assert batch.token_valid is not None and batch.valid is not None
    slopes = torch.zeros_like(batch.token_log_probs)
    found = (batch.token_log_probs.detach() - batch.token_ref_log_probs).tolist()
    rows = range(len(found))

    def each(row: Row) -> Slopes:
        n = int(row.scores[0])
        places = [[t for t, counts in enumerate(tokens) if counts] for tokens in batch.token_valid[n].tolist()]  # type: ignore[index]
        shorter = min(map(len, places))
        weights = [{t: 1.0 if i < shorter else alpha for i, t in enumerate(at)} for at in places]
        a, b = (math.fsum(w * found[n][k][t] for t, w in weights[k].items()) for k in (0, 1))
        preference = coin(beta * (a - b))
        for k, sign in ((0, -1), (1, 1)):
            for t, w in weights[k].items():
                slopes[n, k, t] = sign * w * beta * preference.tails
        return preference.heads_surprise, (0.0, 0.0)

    numbered = torch.tensor(rows, dtype=torch.float64)[:, None].expand_as(batch.log_probs)
    answer = candidatewise(each)(Scores(numbered.contiguous(), valid=batch.valid))
    return {"L": answer["L"], "weights": answer["weights"], "dL/dtoken_log_probs": slopes}


def _dpo_norm(row: Row, beta: float) -> Slopes:
    return _logistic(row, per_token([beta * x for x in log_ratios(row)], row), [beta, beta])


def _r_dpo(row: Row, beta: float, alpha: float) -> Slopes:
    lengths = row.each["lengths"]
    preference = coin(beta * _margin(row) + alpha * (lengths[0] - lengths[1]))
    return _even(preference.heads_surprise, -beta * preference.tails)


def _simpo(row: Row, beta: float, gamma: float) -> Slopes:
    chosen, rejected = per_token([beta * x for x in row.scores], row)
    return _logistic(row, [chosen - gamma, rejected], [beta, beta])


def _logistic(row: Row, rewards: Sequence[float], scale: Sequence[float]) -> Slopes:
    """Compare rewards that move by ``scale`` per token with the log-probabilities."""
    preference = coin(rewards[0] - rewards[1])
    first, second = per_token(scale, row)
    return preference.heads_surprise, (-first * preference.tails, second * preference.tails)


def _orpo(row: Row, lam: float) -> Slopes:
    w, l = per_token(row.scores, row)  # noqa: E741
    (odds, rise), (other_odds, other_rise) = _odds(w), _odds(l)
    lost = float(other_odds / (odds + other_odds))
    slopes = per_token([-1 - lam * lost * rise, lam * lost * other_rise], row)
    return -w + lam * float(-(odds / (odds + other_odds)).ln()), slopes


def _odds(log_prob: float) -> tuple[Decimal, float]:
    """Return p / (1 − p), and the derivative of its logarithm by log p."""
    p = Decimal(min(log_prob, _HELD)).exp()
    return p / (1 - p), float(1 / (1 - p)) if log_prob < _HELD else 0.0


def _sft(row: Row, per_token: bool) -> Slopes:
    share = 1 / row.each["lengths"][0] if per_token else 1.0
    return -share * row.scores[0], [-share, *[0.0] * (len(row.scores) - 1)]


def _cpo(row: Row, beta: float, lam: float) -> Slopes:
    w, l = row.scores  # noqa: E741
    preference = coin(beta * (w - l))
    pull = beta * preference.tails
    return preference.heads_surprise - lam * w, (-pull - lam, pull)


def _slic(row: Row, delta: float, lam: float) -> Slopes:
    w, l = row.scores  # noqa: E741
    lacking = delta - (w - l)
    pull = kink(lacking, 0.0, 1.0)
    return max(0.0, lacking) - lam * w, (-pull - lam, pull)


def _rpo_iterative(row: Row, beta: float, alpha: float) -> Slopes:
    return _imitating(_dpo(row, beta), row, alpha / row.each["lengths"][0])


def _rpo_sft(row: Row, beta: float, eta: float) -> Slopes:
    return _imitating(_dpo(row, beta), row, eta * beta)


def _imitating(preference: Slopes, row: Row, weight: float) -> Slopes:
    loss, (chosen, rejected) = preference
    return loss - weight * row.scores[0], (chosen - weight, rejected)


def _record(
    name: str,
    statement: str,
    reference: str,
    formula: Callable[..., Slopes] | Callable[..., Mapping[str, Tensor]],
    parameters: Mapping[str, Any],
    reads: str = "ref_log_probs",
    at_least: int = 2,
) -> Definition:
    whole = formula in (_likelihood, _kto, _tdpo, _ld_dpo)
    answer: Any = formula if whole else candidatewise(partial(formula), at_least, "log_probs")  # type: ignore[arg-type]
    return Definition("preference", name, statement, reference, parameters, answer, reads=frozenset(reads.split()))


DEFINITIONS: list[Definition] = [
    _record(
        "dpo",
        "L = −log σ(β h), or what another likelihood says of the rewards β log(π/π_ref)",
        "Rafailov et al. 2023, eq. 7",
        _likelihood,
        {**_BETA, "likelihood": None},
    ),
    _record(
        "cdpo",
        "L = −(1 − e) log σ(β h) − e log σ(−β h), e = label_smoothing",
        "Mitchell 2023, A note on DPO with noisy preferences",
        _cdpo,
        _SMOOTHED,
    ),
    _record(
        "robust_dpo",
        "L = [−(1 − e) log σ(β h) + e log σ(−β h)] / (1 − 2 e), e = label_smoothing",
        "Chowdhury et al. 2024 (robust DPO)",
        _robust_dpo,
        _SMOOTHED,
    ),
    _record(
        "ipo",
        "L = (h − 1/(2 β))² of sums over tokens; with soft_labels (h − (p − ½)/β)²",
        "Azar et al. 2023, eq. 17",
        _ipo,
        {**_BETA, "soft_labels": False},
        "ref_log_probs preference_prob",
    ),
    _record("hinge", "L = max(0, 1 − β h)", "Liu et al. 2023 (RSO)", _hinge, _BETA),
    _record(
        "exo",
        "L = q log(q/(1 − e)) + (1 − q) log((1 − q)/e), q = σ(β h), e = label_smoothing",
        "Ji et al. 2024, eq. 16",
        _exo,
        {"beta": 0.1, "label_smoothing": 1e-3},
    ),
    _record(
        "rpo_reward_aware",
        "L = KL(σ(η Δr) ‖ σ(β h)) of two coins",
        "Nvidia 2024 (Nemotron-4), section 3.3.2",
        _rpo_reward_aware,
        {**_BETA, "eta": 1.0},
        "ref_log_probs margins",
    ),
    _record(
        "discopop",
        "L = (1 − g) (−log σ(z)) + g e^{−z}, z = β h, g = σ(z/tau)",
        "Lu et al. 2024, eq. 5",
        _discopop,
        {**_BETA, "tau": 0.05},
    ),
    _record(
        "f_dpo",
        "L = −log σ(β (f'(e^a) − f'(e^b))), f' = log u (reverse), −1/u (forward), log(u/(1 + u)) (js) or "
        "(1 − u^−alpha)/alpha, each e^x going on as its tangent at x = 60",
        "Wang et al. 2023 (f-DPO), theorem 1 and table 1",
        _f_dpo,
        {**_BETA, "divergence": "reverse", "alpha": 0.5},
    ),
    _record(
        "dpop",
        "L = −log σ(β (h − lam max(0, −a)))",
        "Pal et al. 2024 (Smaug), eq. 3",
        _dpop,
        {**_BETA, "lam": 50.0},
    ),
    _record(
        "sppo",
        "L = (a − 1/(2 β))² + (b + 1/(2 β))²; with soft_labels ±(p − ½)/β in place of ±1/(2 β)",
        "Wu et al. 2024 (SPPO), eq. 4.7",
        _sppo,
        {**_BETA, "soft_labels": False},
        "ref_log_probs preference_prob",
    ),
    _record(
        "nca",
        "L = −log σ(β a) − ½ log σ(−β a) − ½ log σ(−β b)",
        "Chen et al. 2024 (arXiv 2402.05369)",
        _nca,
        _BETA,
    ),
    _record(
        "bco",
        "L = −log σ(β a − δ) − log σ(−(β b − δ)), δ = shift",
        "Jung et al. 2024 (arXiv 2404.04656)",
        _bco,
        {**_BETA, "shift": 0.0},
    ),
    _record("apo_zero", "L = 1 − σ(β a) + σ(β b)", "D'Oosterlinck et al. 2024, eq. 7", _apo_zero, _BETA),
    _record("apo_down", "L = σ(β a) + 1 − σ(β h)", "D'Oosterlinck et al. 2024, eq. 8", _apo_down, _BETA),
    _record(
        "kto",
        "L = the mean over a row's responses of lam_d (1 − σ(β (a − z))) where desirable, else lam_u σ(β (a − z)), "
        "with z = max(0, mean of log(π/π_ref) over mismatched responses) without gradient; weight: how many they are",
        "Ethayarajh et al. 2024, eq. 7 and 8",
        _kto,
        {**_BETA, "lam_d": 1.0, "lam_u": 1.0},
        "ref_log_probs mismatched_log_probs mismatched_ref_log_probs desirable",
    ),
    _record(
        "tdpo",
        "L = −log σ(β (h − alpha (D_l − D_w))), D = sum of KL(π_ref ‖ π) over a response's steps; no gradient of D_w "
        "with stop_gradient",
        "Zeng et al. 2024, eq. 17 and 18",
        _tdpo,
        {**_BETA, "alpha": 0.5, "stop_gradient": True},
        "ref_log_probs token_kl",
    ),
    _record(
        "ld_dpo",
        "L = −log σ(β (a − b)) of sums over tokens, those beyond the length of the shorter response alpha times",
        "Liu et al. 2024 (arXiv 2409.06411), eq. 11",
        _ld_dpo,
        {**_BETA, "alpha": 0.5},
        "token_log_probs token_ref_log_probs token_valid",
    ),
    _record(
        "dpo_norm",
        "L = −log σ(β (a/|w| − b/|l|))",
        "Lambert et al. 2024 (Tulu 3), eq. 6",
        _dpo_norm,
        {"beta": 5.0},
        "ref_log_probs lengths",
    ),
    _record(
        "r_dpo",
        "L = −log σ(β h + alpha (|w| − |l|))",
        "Park et al. 2024, eq. 9",
        _r_dpo,
        {**_BETA, "alpha": 0.05},
        "ref_log_probs lengths",
    ),
    _record(
        "simpo",
        "L = −log σ(β w/|w| − β l/|l| − gamma)",
        "Meng et al. 2024, eq. 6",
        _simpo,
        {"beta": 2.0, "gamma": 1.0},
        "lengths",
    ),
    _record(
        "orpo",
        "L = −log p_w − lam log σ(log odds(p_w) − log odds(p_l)), log p = log π / length, held at −1e-12 in the odds",
        "Hong et al. 2024, eq. 6 and 7",
        _orpo,
        {"lam": 0.1},
        "lengths",
    ),
    _record(
        "sft",
        "L = −log π of the best response, with per_token divided by its length",
        "Ouyang et al. 2022, section 3.5",
        _sft,
        {"per_token": False},
        "lengths",
        at_least=1,
    ),
    _record(
        "cpo",
        "L = −log σ(β (w − l)) − lam w",
        "Xu et al. 2024 (CPO), eq. 3 to 5",
        _cpo,
        {**_BETA, "lam": 1.0},
        "",
    ),
    _record(
        "slic",
        "L = max(0, delta − w + l) − lam w",
        "Zhao et al. 2023 (SLiC-HF), eq. 1",
        _slic,
        {"delta": 1.0, "lam": 0.1},
        "",
    ),
    _record(
        "rpo_iterative",
        "L = −log σ(β h) − alpha w/|w|",
        "Pang et al. 2024 (arXiv 2404.19733), eq. 1",
        _rpo_iterative,
        {**_BETA, "alpha": 1.0},
        "ref_log_probs lengths",
    ),
    _record(
        "rpo_sft",
        "L = −log σ(β h) − eta β w",
        "Liu et al. 2024 (arXiv 2405.16436), algorithm 2",
        _rpo_sft,
        {**_BETA, "eta": 0.005},
    ),
]

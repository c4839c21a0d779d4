"""Plain functions as components: how arguments are matched, what is not judged, and that bugs are found."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf_lab.conformance import from_function, verify
from rlhf_lab.conformance.function import load_function, parse_mapping
from rlhf_lab.errors import LabError
from rlhf_lab.registry import load_plugins
from rlhf_lab.types import Refused, Trajectories

REGISTRY = load_plugins()


def gae_time_first(r, v, done, last_value, gamma=0.99, lam=0.95):
    """As reinforcement-learning libraries have it: [t, rows], one flag, one value behind the last step."""
    advantages, carry = torch.zeros_like(r), torch.zeros_like(r[0])
    for t in reversed(range(len(r))):
        ahead = last_value if t == len(r) - 1 else v[t + 1]
        error = r[t] + gamma * ahead * (1 - done[t]) - v[t]
        carry = error + gamma * lam * (1 - done[t]) * carry
        advantages[t] = carry
    return advantages, advantages + v


def gae_forgets_the_flag(r, v, done, last_value, gamma=0.99, lam=0.95):
    advantages, carry = torch.zeros_like(r), torch.zeros_like(r[0])
    for t in reversed(range(len(r))):
        ahead = last_value if t == len(r) - 1 else v[t + 1]
        carry = r[t] + gamma * ahead * (1 - done[t]) - v[t] + gamma * lam * carry
        advantages[t] = carry
    return advantages, advantages + v


def gae_row(rewards, values, next_values, terminated, truncated, gamma=0.99, lam=0.95):
    """One row at a time, in NumPy, without value targets."""
    advantages, carry = np.zeros_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        error = rewards[t] + gamma * (0.0 if terminated[t] else next_values[t]) - values[t]
        carry = error + (0.0 if terminated[t] or truncated[t] else gamma * lam * carry)
        advantages[t] = carry
    return advantages


def gae_longer_values(rewards, values, terminated, gamma=0.99, lam=0.95):
    """Values of one state more than rewards."""
    steps = rewards.shape[1]
    advantages = torch.zeros_like(rewards)
    carry = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(steps)):
        goes_on = ~terminated[:, t]
        carry = rewards[:, t] + gamma * values[:, t + 1] * goes_on - values[:, t] + gamma * lam * goes_on * carry
        advantages[:, t] = carry
    return advantages


def gae_of_tokens(token_rewards, values, mask, gamma, lam):
    """As language-model code bases have it: a mask, and nothing behind the last token."""
    ahead, carry, found = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0]), []
    for t in reversed(range(values.shape[1])):
        counts = mask[:, t] > 0
        new = token_rewards[:, t] + gamma * ahead - values[:, t] + gamma * lam * carry
        ahead, carry = torch.where(counts, values[:, t], ahead), torch.where(counts, new, carry)
        found.append(carry)
    return torch.stack(found[::-1], dim=1)


def reward_to_go(r, ended, g):
    found, carry = [], 0.0
    for reward, stops in zip(reversed(r), reversed(ended), strict=True):
        carry = reward + g * carry * (1 - stops)
        found.append(carry)
    return found[::-1]


def group_scores(rewards, group_ids, eps=1e-4):
    scores = rewards.sum(-1)
    found = torch.zeros_like(scores)
    for group in set(group_ids.tolist()):
        members = group_ids == group
        if members.sum() > 1 and scores[members].std() > 0:
            found[members] = (scores[members] - scores[members].mean()) / (scores[members].std() + eps)
    return found[:, None].expand_as(rewards)


def ppo_loss(logp, old_logp, adv, clip=0.2):
    ratio = (logp - old_logp).exp()
    return -torch.min(ratio * adv, ratio.clamp(1 - clip, 1 + clip) * adv)


def ppo_without_min(logp, old_logp, adv, clip=0.2):
    return -(logp - old_logp).exp().clamp(1 - clip, 1 + clip) * adv


def ppo_mean(logp, old_logp, adv, clip=0.2):
    return ppo_loss(logp, old_logp, adv, clip).mean()


def ppo_in_numpy(logp, old_logp, adv, clip=0.2):
    if not isinstance(logp, np.ndarray):
        raise TypeError("arrays only")
    return np.exp(logp - old_logp) * adv


def k3(logp, ref):
    return (ref - logp).exp() - (ref - logp) - 1


def squared(v, target, mask):
    return 0.5 * (v - target).square() * mask


def adaptive(coefficient, observed, target=0.01):
    if observed > target * 1.5:
        return coefficient * 2
    return coefficient / 2 if observed < target / 1.5 else coefficient


def pair_loss(chosen, rejected, margin=0.0):
    """As language-model code bases have it: the scores of both responses."""
    return -torch.nn.functional.logsigmoid(chosen - rejected - margin)


def pair_loss_of_each(chosen, rejected):
    return rejected.sigmoid().log() - chosen.sigmoid().log()


def dpo_of_a_library(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
    """As language-model code bases have it: four log-probabilities."""
    margin = (policy_chosen - policy_rejected) - (reference_chosen - reference_rejected)
    return -torch.nn.functional.logsigmoid(beta * margin)


def simpo_by_columns(log_probs, lengths, beta=2.0, gamma=1.0):
    means = log_probs / lengths
    return -torch.nn.functional.logsigmoid(beta * (means[:, 0] - means[:, 1]) - gamma)


def dpo_adds_the_reference(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
    margin = (policy_chosen - policy_rejected) + (reference_chosen - reference_rejected)
    return -torch.nn.functional.logsigmoid(beta * margin)


def orpo_subtracts(chosen, rejected, chosen_length, rejected_length, lam=0.1):
    """Has no digits of 1 − p where p is next to 1."""
    p, q = (chosen / chosen_length).exp(), (rejected / rejected_length).exp()
    odds = (p / (1 - p)).log() - (q / (1 - q)).log()
    return -p.log() - lam * torch.nn.functional.logsigmoid(odds)


def labels_one_by_one(log_probs, ref_log_probs, desirable):
    return torch.where(desirable, ref_log_probs - log_probs, log_probs - ref_log_probs).sum(-1)


def list_mle(scores, mask):
    left = mask[:, None, :] * torch.ones_like(scores).diag_embed().cumsum(-1)
    rivals = scores[:, None, :].expand_as(left).masked_fill(left == 0, -1e30).logsumexp(-1)
    return (rivals - scores).masked_fill(mask == 0, 0).sum(-1)


def list_mle_times_mask(scores, mask):
    far = scores * mask - 1e9 * (1 - mask)
    return ((far.flip(-1).logcumsumexp(-1).flip(-1) - far) * mask).sum(-1)


def list_mle_of_prefixes(scores):
    return (scores.logcumsumexp(-1) - scores).sum(-1)


DPO = {
    "chosen": "policy_chosen",
    "rejected": "policy_rejected",
    "ref_chosen": "reference_chosen",
    "ref_rejected": "reference_rejected",
}
PPO = {"log_probs": "logp", "old_log_probs": "old_logp", "advantages": "adv"}


def judged(function, record, mapping=None, layout="rows", examples=20):
    wrapped = from_function(function, record, mapping, layout, REGISTRY)
    verdicts = verify(wrapped.subject, examples=examples, registry=REGISTRY, mend=wrapped.mend)
    failed = [v.property.id for v in verdicts if v.status == "failed"]
    assert any(v.property.id.startswith("is-") and v.status in ("passed", "failed") for v in verdicts)
    return failed, wrapped


@pytest.mark.parametrize(
    ("function", "record", "mapping", "layout"),
    [
        (gae_time_first, "gae", {"rewards": "r", "values": "v"}, "time-first"),
        (gae_row, "gae", {}, "row"),
        (gae_longer_values, "gae", {"values_with_last": "values"}, "rows"),
        (gae_of_tokens, "gae", {"rewards": "token_rewards"}, "rows"),
        (reward_to_go, "monte_carlo", {"rewards": "r", "done": "ended", "gamma": "g"}, "row"),
        (group_scores, "advantage/grpo", {}, "rows"),
        (ppo_loss, "ppo_clip", PPO, "rows"),
        (ppo_loss, "ppo_clip", PPO, "time-first"),
        (k3, "k3", {"log_probs": "logp", "ref_log_probs": "ref"}, "rows"),
        (squared, "mse", {"values": "v", "returns": "target"}, "rows"),
        (adaptive, "adaptive_kl", {}, "row"),
        (pair_loss, "bradley_terry", {}, "rows"),
        (pair_loss, "bradley_terry_margin", {"margins": "margin"}, "row"),
        (list_mle, "plackett_luce", {}, "rows"),
        (dpo_of_a_library, "dpo", DPO, "rows"),
        (simpo_by_columns, "simpo", {}, "rows"),
    ],
)
def test_a_right_function_passes(function, record, mapping, layout):
    failed, _ = judged(function, record, mapping, layout)
    assert failed == []


@pytest.mark.parametrize(
    ("function", "record", "mapping", "layout", "law"),
    [
        (gae_forgets_the_flag, "gae", {"rewards": "r", "values": "v"}, "time-first", "is-gae"),
        (ppo_without_min, "ppo_clip", PPO, "rows", "is-ppo-clip"),
        (gae_row, "td_lambda", {"gamma": "lam", "lam": "gamma"}, "row", "is-td-lambda"),
        (pair_loss_of_each, "bradley_terry", {}, "rows", "is-bradley-terry"),
        (list_mle_of_prefixes, "plackett_luce", {}, "rows", "is-plackett-luce"),
        (dpo_adds_the_reference, "dpo", DPO, "rows", "is-dpo"),
        (orpo_subtracts, "orpo", {}, "rows", "finite-at-extreme-log-probs"),
        (list_mle_times_mask, "plackett_luce", {}, "rows", "padding-content-ignored"),
    ],
)
def test_a_wrong_function_fails(function, record, mapping, layout, law):
    failed, _ = judged(function, record, mapping, layout, examples=40)
    assert law in failed


@pytest.mark.parametrize(
    ("function", "record", "mapping", "layout", "notes"),
    [
        (
            gae_time_first,
            "gae",
            {"rewards": "r", "values": "v"},
            "time-first",
            {
                "called with flags as numbers, since it fails otherwise",
                "not judged: steps that do not count: it takes neither valid nor mask",
                "not judged: truncations: it takes done, and neither terminated nor truncated",
            },
        ),
        (
            gae_row,
            "gae",
            {},
            "row",
            {"not judged: returns: it gives advantages only"},
        ),
        (
            gae_longer_values,
            "gae",
            {"values_with_last": "values"},
            "rows",
            {"not judged: truncations inside a row: it takes no truncated"},
        ),
        (
            gae_of_tokens,
            "gae",
            {"rewards": "token_rewards"},
            "rows",
            {
                "not judged: terminations inside a row: it takes neither terminated nor done",
                "not judged: rows that do not end in a termination: "
                "it takes no next_values, last_value or values_with_last",
                "not judged: what it returns at steps that do not count",
            },
        ),
        (
            reward_to_go,
            "monte_carlo",
            {"rewards": "r", "done": "ended", "gamma": "g", "bootstrap": "false"},
            "row",
            {"not judged: bootstrap other than False: it takes no bootstrap"},
        ),
        (
            ppo_loss,
            "ppo_clip",
            {**PPO, "clip_low": "0.1"},
            "rows",
            {"not judged: clip_low other than 0.1: it takes no clip_low"},
        ),
        (
            k3,
            "k3",
            {"log_probs": "logp", "ref_log_probs": "ref"},
            "rows",
            {"not judged: samples of an older policy: it takes no old_log_probs"},
        ),
        (
            pair_loss,
            "bradley_terry",
            {},
            "rows",
            {
                "not judged: rows with room for other than two candidates: it takes chosen and rejected",
                "not judged: candidates that do not count: it takes neither valid nor mask",
                "not judged: rows with fewer than two valid candidates: it gives no weights",
                "not judged: margin other than its default 0.0",
            },
        ),
    ],
)
def test_what_is_not_judged_is_said(function, record, mapping, layout, notes):
    wrapped = from_function(function, record, mapping, layout, REGISTRY)
    assert notes <= set(wrapped.notes)
    assert "not judged: batches without a row or a step" in wrapped.notes


def batch(**changes):
    """Two steps of one row, the second of which ends it."""
    given = {
        "rewards": torch.tensor([[1.0, 2.0]]),
        "terminated": torch.tensor([[False, True]]),
        "truncated": torch.tensor([[False, False]]),
        "valid": torch.tensor([[True, True]]),
        "values": torch.tensor([[0.5, 1.0]]),
        "next_values": torch.tensor([[1.0, 8.0]]),
    }
    return Trajectories(**{**given, **changes})


def test_a_batch_that_the_arguments_cannot_express_is_refused():
    component = from_function(gae_time_first, "gae", {"rewards": "r", "values": "v"}, "time-first", REGISTRY).component
    assert component()(batch()).advantages[0, 1] == 1
    with pytest.raises(Refused, match="truncations"):
        component()(batch(terminated=torch.tensor([[False, False]]), truncated=torch.tensor([[False, True]])))
    with pytest.raises(Refused, match="steps that do not count"):
        component()(batch(valid=torch.tensor([[False, True]])))


def test_the_parameters_have_the_functions_defaults_and_known_bounds():
    component = from_function(ppo_loss, "ppo_clip", PPO, "rows", REGISTRY).component
    assert component().clip == 0.2
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        component(clip=-1)
    assert component.requires == {"old_log_probs"}
    assert component.implements == "ppo_clip"


def test_without_a_component_that_knows_the_bounds_an_instance_is_judged():
    wrapped = from_function(ppo_loss, "ppo_clip", PPO)
    assert not isinstance(wrapped.subject, type)
    assert wrapped.subject.clip == 0.2


def test_a_function_that_takes_arrays_only_gets_them():
    def in_numpy(rewards):
        return rewards.astype(np.float64)  # which tensors do not have

    wrapped = from_function(in_numpy, "td", {}, "row", REGISTRY)
    assert "called with NumPy arrays, since it fails otherwise" in wrapped.notes


def needs_an_unknown(rewards, foo):
    return rewards


def three_things(rewards, values, gamma=0.9):
    return rewards, values, rewards


def a_dictionary(rewards):
    return {"advantages": rewards}


@pytest.mark.parametrize(
    ("function", "record", "mapping", "says"),
    [
        (gae_row, "gea", {}, "--as gea: there is no such definition of record. Did you mean 'gae'?"),
        (gae_row, "grpo", {}, "several roles have it; say advantage/grpo or objective/grpo"),
        (gae_row, "aggregation/token_mean", {}, "functions are judged for the roles advantage, normalizer"),
        (gae_row, "kl/gae", {}, "there is no definition of record 'gae' for role kl"),
        (needs_an_unknown, "td", {}, "needs_an_unknown: nothing is mapped to its argument 'foo'. Say --map FIELD=foo"),
        (gae_row, "gae", {"reward": "rewards"}, "advantage has no 'reward'. Did you mean 'rewards'?"),
        (gae_row, "gae", {"rewards": "reward"}, "gae_row has no argument 'reward'. Did you mean 'rewards'?"),
        (gae_row, "gae", {"rewards": "rewards", "done": "rewards"}, "rewards is mapped to rewards already"),
        (ppo_mean, "ppo_clip", PPO, "ppo_mean: returns one number for a batch of shape"),
        (ppo_in_numpy, "ppo_clip", PPO, "ppo_in_numpy: takes NumPy arrays only; the gradient is part of a loss"),
        (labels_one_by_one, "kto", {}, "labels_one_by_one: a row's responses are labelled one by one; write a comp"),
        (three_things, "td", {}, "three_things: returns 3 things; only advantages, or advantages and returns"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_words(function, record, mapping, says):
    with pytest.raises(LabError) as error:
        from_function(function, record, mapping, "rows", REGISTRY)
    assert says in str(error.value)


def test_one_row_at_a_time_has_no_groups():
    with pytest.raises(LabError, match="one row at a time cannot have group_ids"):
        from_function(group_scores, "advantage/grpo", {}, "row", REGISTRY)


def test_an_answer_that_is_none_is_a_verdict():
    wrapped = from_function(a_dictionary, "td", {}, "rows", REGISTRY)
    verdict = verify(wrapped.subject, examples=5, registry=REGISTRY, mend=wrapped.mend)[0]
    assert verdict.property.id == "answers-every-batch"
    assert "returned dict; expected a tensor or an array" in verdict.message


def test_a_mapping_is_read():
    assert parse_mapping(["rewards=r, done=d", "gamma=0.5"]) == {"rewards": "r", "done": "d", "gamma": "0.5"}
    with pytest.raises(LabError, match="--map rewards: expected FIELD=ARGUMENT"):
        parse_mapping(["rewards"])
    with pytest.raises(LabError, match="rewards is mapped already, to r"):
        parse_mapping(["rewards=r,rewards=s"])


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """Write a file with functions into the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("fns.py").write_text(
        "import torch\n\n"
        "class Losses:\n    @staticmethod\n    def mse(v, R):\n        return 0.5 * (v - R) ** 2\n\n"
        "def td(rewards, values, next_values, terminated, gamma=0.99):\n"
        "    return rewards + gamma * next_values * ~terminated - values\n\n"
        "def bad(rewards, values, next_values, terminated, gamma=0.99):\n"
        "    return rewards + gamma * next_values - values\n\n"
        "SIZE = 3\n",
        encoding="utf-8",
    )


def test_a_function_is_found_in_its_file(functions):
    assert load_function("fns.py:td").__name__ == "td"
    assert load_function("fns.py:Losses.mse")(3, 1) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fns.py", "expected FILE.py:fn"),
        ("none.py:td", "none.py did not load: there is no such file in"),
        ("fns.py:tdd", "fns.py has no 'tdd'. Did you mean 'td'?"),
        ("fns.py:SIZE", "SIZE is int, expected a function"),
        ("broken.py:f", "broken.py did not load: ZeroDivisionError"),
    ],
)
def test_a_function_that_is_not_there_is_told(functions, text, says):
    Path("broken.py").write_text("1 / 0", encoding="utf-8")
    with pytest.raises(LabError, match=re.escape(says)):
        load_function(text)


def test_the_command_verifies_a_function(functions, command):
    code, out, _ = command("verify", "--function", "fns.py:td", "--as", "td", "--examples", "10")
    assert code == 0
    assert out.startswith("td  (advantage, as td)  fns.py:8\n")
    assert "  not judged: steps that do not count: it takes neither valid nor mask\n" in out
    assert "not claimed" not in out


def test_the_command_says_how_to_ask_again(functions, command):
    options = ["--function", "fns.py:bad", "--as", "td", "--map", "gamma=gamma", "--layout", "time-first"]
    code, out, _ = command("verify", *options, "--examples", "20")
    assert code == 1
    assert "  FAIL  bootstraps-on-truncation-only" in out
    again = next(line.split("again")[1].split() for line in out.splitlines() if "again" in line)
    code, out, _ = command(*again[1:])
    assert code == 1
    assert out.splitlines()[-1] == "1 failed"


def test_the_command_prints_json_of_a_function(functions, command):
    options = ["--function", "fns.py:Losses.mse", "--as", "mse", "--map", "values=v,returns=R"]
    code, out, _ = command("verify", *options, "--examples", "5", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["component"], found["role"]) == ("mse", "value")
    assert "not judged: batches without a row or a step" in found["notes"]

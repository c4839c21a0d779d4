"""A world of responses that are mere numbers, a policy with one logit per prompt and response, and records of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from rlhf_lab.components import Environment, Policy, PreferenceData, PreferenceObjective, RewardObjective
from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates, Scored
from rlhf_lab.training.protocols import Evaluation, Size, Spaces
from rlhf_lab.training.samples import Samples
from rlhf_lab.types import Loss, Rankings, Scores, Trajectories

PROMPTS, RESPONSES = 2, 4
REWARDS = torch.tensor([[0.0, 0.5, 1.0, -1.0], [1.0, 0.0, -0.5, 0.25]], dtype=torch.float64)  # [x, y]


class NumberActor(nn.Module):
    """π(y|x) = softmax of ``logits [runs, x, y]``; as a reward model r(x, y) = its logits."""

    def __init__(self, runs: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(runs, PROMPTS, RESPONSES, dtype=torch.float64))
        self.calls: list[frozenset[str]] = []

    def keep_reference(self) -> None:
        self.register_buffer("reference_logits", self.logits.detach().clone())

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        if "reference_logits" in state_dict:
            self.keep_reference()
        return super().load_state_dict(state_dict, strict, assign)

    def action_log_probs(self, observations: Tensor, mask: Tensor | None = None) -> Tensor:
        padded = torch.cat([self.logits, self.logits.new_zeros(len(self.logits), 1, RESPONSES)], dim=1)
        return padded.log_softmax(-1)[torch.arange(len(padded))[:, None], observations]

    def act(self, observations: Tensor, uniforms: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def values(self, observations: Tensor) -> Tensor | None:
        return None

    def evaluate(self, samples: Samples) -> Evaluation:
        raise NotImplementedError

    def score_norms(self, samples: Samples) -> Tensor:
        raise NotImplementedError

    def score(self, candidates: Candidates, fields: frozenset[str] = frozenset()) -> Scored:
        self.calls.append(fields)
        reference = self._buffers.get("reference_logits")
        said = None if reference is None else _look_up(reference.log_softmax(-1), candidates)
        return Scored(_look_up(self.logits.log_softmax(-1), candidates), said)

    def rewards(self, candidates: Candidates) -> Tensor:
        return _look_up(self.logits, candidates)


def _look_up(table: Tensor, candidates: Candidates) -> Tensor:
    """Return ``table [runs, x, y]`` at the candidates ``[runs, rows, k]``; NaN where they do not count."""
    prompts, responses = candidates.inputs["prompts"], candidates.inputs["responses"]
    found = table[torch.arange(len(table))[:, None, None], prompts[..., None], responses.clamp(min=0)]
    return found if candidates.valid is None else found.masked_fill(~candidates.valid, torch.nan)


class NumberWorld:
    """One response per episode; pays its reward, or what an earlier stage's reward model says."""

    spaces = Spaces(actions=RESPONSES, states=PROMPTS + 1)

    def __init__(self, runs: int, envs: int, streams: Streams) -> None:
        self.runs, self.envs, self.streams, self.calls = runs, envs, streams, 0
        self.rewards = REWARDS.expand(runs, -1, -1)

    def adopt(self, parameters: Mapping[str, Tensor]) -> None:
        self.rewards = parameters.get("reward.logits", self.rewards).double()

    def collect(self, actor: NumberActor, size: Size) -> Samples:
        rows = self.envs * size.count
        prompts = (torch.arange(rows) % PROMPTS).expand(self.runs, rows)
        uniforms = self.streams.uniforms(self.calls, rows)
        self.calls += 1
        run = torch.arange(self.runs)[:, None]
        with torch.no_grad():
            cumulative = actor.logits.softmax(-1).cumsum(-1)[run, prompts]
        responses = (uniforms[..., None] > cumulative).sum(-1).clamp(max=RESPONSES - 1)
        ends = torch.ones(self.runs, rows, 1, dtype=torch.bool)
        rewards = self.rewards[run, prompts, responses][..., None]
        return Samples(
            Trajectories(rewards, ends, ~ends, ends, group_ids=prompts.contiguous()),
            {"observations": prompts[..., None], "actions": responses[..., None]},
        )

    def candidates(self, samples: Samples) -> Candidates:
        prompts = samples.inputs["observations"][..., 0]
        order = prompts.argsort(dim=1, stable=True)  # the rows of one prompt side by side

        def grouped(x: Tensor) -> Tensor:
            return x.gather(1, order).view(self.runs, PROMPTS, -1)

        responses = grouped(samples.inputs["actions"][..., 0])
        return Candidates(
            {"prompts": grouped(prompts)[..., 0], "responses": responses},
            torch.ones_like(responses),
            targets=grouped(samples.trajectories.rewards[..., 0]),
        )

    def encode(self, rankings: Any) -> Candidates:
        raise NotImplementedError

    def exact(self) -> None:
        return None

    def state_dict(self) -> dict[str, Tensor]:
        return {"calls": torch.tensor(self.calls)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.calls = int(state["calls"])


class Numbers(Environment):
    """A number for an answer."""

    name = "numbers"

    def build(self, runs: int, envs: int, streams: Streams) -> NumberWorld:
        return NumberWorld(runs, envs, streams)


class NumberPolicy(Policy):
    """One logit per prompt and response."""

    name = "number_policy"
    provides = frozenset({"ref_log_probs"})

    def build(self, spaces: Spaces, runs: int, streams: Streams) -> NumberActor:
        return NumberActor(runs)


class Records(PreferenceData):
    """Pairs or longer rankings of random responses, each by its own seed; ragged ones end with what does not count."""

    name = "records"
    rows: int = Field(default=12, description="rows")
    k: int = Field(default=2, description="responses per row")
    ragged: bool = Field(default=False, description="rows end after two responses or more")
    labelled: bool = Field(default=False, description="labels instead of an order")
    weighted: bool = Field(default=False, description="row i weighs i + 1")

    def gives(self) -> frozenset[str]:
        named = {"desirable": self.labelled, "valid": self.ragged, "weights": self.weighted}
        return frozenset(name for name, given in named.items() if given)

    def build(self, environment: Any, reference: Any, streams: Streams) -> Candidates:
        runs = streams.runs
        prompts = torch.arange(self.rows).expand(runs, -1) % PROMPTS
        responses = streams.uniforms(0, self.rows, RESPONSES).argsort(-1)[..., : self.k]
        lengths = torch.ones_like(responses)
        valid = None
        if self.ragged:
            valid = torch.arange(self.k) < 2 + torch.arange(self.rows)[:, None] % (self.k - 1)
            valid = valid.expand(responses.shape)
            responses = responses.masked_fill(~valid, -1)
            lengths = lengths.masked_fill(~valid, 0)
        desirable = (responses % 2 == 0) if self.labelled else None
        weights = torch.arange(1.0, self.rows + 1).expand(runs, -1) if self.weighted else None
        inputs = {"prompts": prompts, "responses": responses}
        return Candidates(inputs, lengths, valid=valid, desirable=desirable, weights=weights)


class PairLoss(PreferenceObjective):
    """-log σ(log-ratio of the first response less that of the last one that counts)."""

    name = "pair_loss"
    requires = frozenset({"ref_log_probs"})
    stacked = True

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.ref_log_probs is not None
        ratio = batch.log_probs - batch.ref_log_probs
        last = ratio[..., -1]
        if batch.valid is not None:
            ratio = ratio.masked_fill(~batch.valid, 0)
            last = ratio.gather(-1, batch.valid.sum(-1, keepdim=True) - 1)[..., 0]
        return Loss(-nn.functional.logsigmoid(ratio[..., 0] - last))


class Likelihood(PreferenceObjective):
    """Minus the log-likelihood of the first response."""

    name = "likelihood"
    stacked = True

    def __call__(self, batch: Rankings) -> Loss:
        return Loss(-batch.log_probs[..., 0])


class Labels(PreferenceObjective):
    """Raises desirable responses and lowers others; compares with the next row's responses."""

    name = "labels"
    requires = frozenset({"desirable", "mismatched_log_probs"})
    scope = "batch"

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.desirable is not None and batch.mismatched_log_probs is not None
        others = batch.mismatched_log_probs.mean()
        sign = torch.where(batch.desirable, -1.0, 1.0)
        return Loss((sign * (batch.log_probs - others)).mean(-1))


class PairScores(RewardObjective):
    """-log σ(first score - last score)."""

    name = "pair_scores"
    stacked = True

    def __call__(self, batch: Scores) -> Loss:
        return Loss(-nn.functional.logsigmoid(batch.scores[..., 0] - batch.scores[..., -1]))


def spec(**changes: Any) -> dict[str, Any]:
    """Return a run of the offline trainer on records."""
    common: dict[str, Any] = {
        "environment": Numbers(),
        "policy": NumberPolicy(),
        "trainer": {"name": "offline"},
        "data": Records(),
        "preference": PairLoss(),
        "optimizer": {"name": "sgd", "lr": 1.0},
        "budget": {"iterations": 10},
    }
    return common | changes

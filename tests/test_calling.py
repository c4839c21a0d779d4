"""How a component is called: with what it needs, one run at a time where it must, and errors that bear its name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_lab.calling import apply, call, restrict
from rlhf_lab.components import AdvantageNormalizer, Aggregation, PolicyObjective
from rlhf_lab.errors import LabError
from rlhf_lab.types import Advantages, Loss, PolicyBatch, Trajectories, Weights


def batch(runs: int = 2) -> Trajectories:
    x = torch.arange(runs * 6.0).view(runs, 3, 2)
    none = torch.zeros_like(x, dtype=torch.bool)
    return Trajectories(x, none, none, ~none, values=x, log_probs=x, group_ids=torch.zeros(runs, 3, dtype=torch.int64))


class Centred(AdvantageNormalizer):
    """Subtracts the mean of everything that it sees."""

    name = "centred"
    requires = frozenset({"values"})

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        assert batch.log_probs is None
        return Advantages(advantages.advantages - advantages.advantages.mean())


class StackedCentred(Centred):
    """The same, which knows of the run axis."""

    name = "stacked_centred"
    stacked = True

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        return Advantages(advantages.advantages - advantages.advantages.mean((1, 2), keepdim=True))


def test_restrict_leaves_what_is_needed() -> None:
    given = batch()
    seen = restrict(given, Centred())
    assert seen.values is given.values and seen.rewards is given.rewards
    assert seen.log_probs is None and seen.group_ids is None and given.log_probs is not None


@pytest.mark.parametrize("component", [Centred(), StackedCentred()])
def test_a_batch_scoped_component_never_mixes_runs(component: AdvantageNormalizer) -> None:
    # run 0 holds 0..5 with mean 2.5, run 1 holds 6..11 with mean 8.5
    given = batch()
    found = apply(component, restrict(given, component), Advantages(given.rewards)).advantages
    assert found.tolist() == (given.rewards - torch.tensor([2.5, 8.5])[:, None, None]).tolist()


def test_a_loss_is_stacked_with_its_metrics() -> None:
    class Summed(PolicyObjective):
        name = "summed"
        scope = "batch"

        def __call__(self, batch: PolicyBatch) -> Loss:
            return Loss(batch.log_probs - batch.log_probs.mean(), None, {"advantages": batch.advantages})

    x, yes = torch.arange(12.0).view(2, 3, 2), torch.ones(2, 3, 2, dtype=torch.bool)
    found = apply(Summed(), PolicyBatch(x, x, yes, yes))
    assert found.values.shape == (2, 3, 2) == found.metrics["advantages"].shape and found.weights is None


class SeesOneRun(Aggregation):
    """Called with plain tensors, and in need of one run at a time."""

    name = "sees_one_run"
    scope = "batch"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        assert valid.ndim == 2
        return Weights(valid.double(), valid.double() * valid.sum())


def test_plain_tensors_are_given_run_by_run_too() -> None:
    valid = torch.tensor([[[True, True]], [[True, False]]])
    assert apply(SeesOneRun(), valid, valid).total.tolist() == [[[2.0, 2.0]], [[1.0, 0.0]]]


def test_a_stateful_loss_keeps_its_state_and_what_it_needs() -> None:
    x, yes = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    given = PolicyBatch(x, x, yes, yes, old_log_probs=x, entropy=x, state={"mean": torch.zeros(1)})
    seen: Any = restrict(given, Centred())
    assert seen.state is given.state and seen.old_log_probs is None and seen.entropy is None


def test_an_error_of_a_component_bears_its_name_and_line() -> None:
    class Broken(Centred):
        name = "broken"

        def __call__(self, batch: Any, advantages: Any = None) -> Any:
            raise ZeroDivisionError("nothing to divide")

    with pytest.raises(
        LabError, match=r"^normalizer 'broken' raised ZeroDivisionError: nothing to divide \(test_calling"
    ):
        call(Broken(), batch())


def test_a_batch_that_a_component_made_wrongly_bears_its_name() -> None:
    class Wrong(Centred):
        name = "wrong"

        def __call__(self, batch: Any, advantages: Any = None) -> Any:
            return Advantages(batch.rewards * float("nan"))

    with pytest.raises(LabError, match=r"^normalizer 'wrong': Advantages.advantages: nan at index"):
        call(Wrong(), batch())


class Answering:
    """A component of any role that answers what it was made with."""

    name = "answering"

    def __init__(self, role: str, answer: Any) -> None:
        self.role = role
        self.answer = answer

    def __call__(self, *arguments: Any) -> Any:
        return self.answer


X = torch.zeros(2, 3, 4)
WRONG = {
    "advantage": ((X, X), Advantages(X[..., None])),
    "normalizer": (X, Advantages(X[0])),
    "objective": (X, Loss(X[..., None])),
    "value": (None, Loss(torch.tensor(0.0))),
    "aggregation": (X, Weights(X[..., :1], X[..., :1])),
    "kl": (0.0, torch.tensor(0.0)),
    "controller": (3.0, torch.tensor(3.0)),
}


@pytest.mark.parametrize("role", WRONG)
def test_an_answer_of_another_type_or_shape_is_refused(role: str) -> None:
    kind, shape = WRONG[role]
    with pytest.raises(LabError, match=rf"^{role} 'answering' returned \w+; it must return "):
        call(Answering(role, kind), X)
    with pytest.raises(LabError, match=rf"^{role} 'answering' returned shape .* for inputs of shape \[2, 3, 4\]"):
        call(Answering(role, shape), X)

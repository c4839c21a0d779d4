"""Verification as a library: what it says of bad components, that the other laws go on, and that it repeats itself."""

import random
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlhf_lab import verify
from rlhf_lab.components import AdvantageEstimator, KLEstimator, PolicyObjective
from rlhf_lab.conformance import Counterexample, Property
from rlhf_lab.conformance.report import for_json, show_case
from rlhf_lab.conformance.search import draw
from rlhf_lab.errors import LabError, did_you_mean
from rlhf_lab.registry import Registry
from rlhf_lab.types import Advantages, Loss, Rankings, clean
from rlhf_lab_preference import DPO


class Rewards(AdvantageEstimator):
    """The reward of the step, which breaks no law."""

    name = "rewards"
    requires = frozenset()

    def __call__(self, batch):
        return self.answer(clean(batch.rewards, batch.valid), batch)

    def answer(self, rewards, batch):
        return Advantages(rewards, rewards)


class Raises(Rewards):
    name = "raises"

    def answer(self, rewards, batch):
        return 1 / 0


class RaisesAtTimes(Rewards):
    name = "raises_at_times"

    def answer(self, rewards, batch):
        return {1: Advantages(rewards, rewards)}[len(rewards)]


class ReturnsATensor(Rewards):
    name = "returns_a_tensor"

    def answer(self, rewards, batch):
        return rewards


class WrongShape(Rewards):
    name = "wrong_shape"

    def answer(self, rewards, batch):
        return Advantages(rewards.sum(-1, keepdim=True))


class NotANumber(Rewards):
    name = "not_a_number"

    def answer(self, rewards, batch):
        return Advantages(rewards / 0)


class SinglePrecision(Rewards):
    name = "single_precision"

    def answer(self, rewards, batch):
        return Advantages(rewards.float())


class OtherDevice(Rewards):
    name = "other_device"

    def answer(self, rewards, batch):
        return Advantages(rewards.to("meta"))


class WithGradient(Rewards):
    name = "with_gradient"

    def answer(self, rewards, batch):
        return Advantages(rewards.requires_grad_())


class ChangesInputs(Rewards):
    name = "changes_inputs"

    def __call__(self, batch):
        return Advantages(batch.rewards.mul_(2) * batch.valid, None)


class CleansInputsInPlace(Rewards):
    """Does the same again when asked again, so that only a fresh copy of the inputs tells it."""

    name = "cleans_inputs_in_place"

    def __call__(self, batch):
        batch.rewards[~batch.valid] = 0
        return Advantages(batch.rewards.clone(), None)


CALLS = []


class KeepsState(Rewards):
    name = "keeps_state"

    def answer(self, rewards, batch):
        CALLS.append(1)
        return Advantages(rewards * len(CALLS))


class TorchRandom(Rewards):
    name = "torch_random"

    def answer(self, rewards, batch):
        return Advantages(rewards * torch.rand(()))


class DrawsForNothing(Rewards):
    name = "draws_for_nothing"

    def answer(self, rewards, batch):
        np.random.random()
        return Advantages(rewards)


class NeverReturns(Rewards):
    name = "never_returns"

    def answer(self, rewards, batch):
        while True:
            time.sleep(0.001)


class HangsOnTwoRows(Rewards):
    name = "hangs_on_two_rows"

    def answer(self, rewards, batch):
        while len(rewards) > 1:
            try:
                time.sleep(0.001)
            except Exception:
                continue
        return Advantages(rewards)


class LeaksGradient(PolicyObjective):
    """Differentiates the advantages, too."""

    name = "leaks_gradient"

    def __call__(self, batch):
        return Loss(-clean(batch.advantages, batch.valid) * clean(batch.log_probs, batch.valid))


class LeaksIntoReference(KLEstimator):
    name = "leaks_into_reference"

    def __call__(self, log_probs, ref_log_probs, *, old_log_probs=None):
        return log_probs - ref_log_probs


def judged(component, **options):
    options.setdefault("examples", 15)
    return {verdict.property.id: verdict for verdict in verify(component, **options)}


@pytest.mark.parametrize(
    ("component", "law", "says"),
    [
        (Raises, "answers-every-batch", "raised ZeroDivisionError: division by zero (test_verify.py:"),
        (RaisesAtTimes, "answers-every-batch", "raised KeyError: 2"),
        (ReturnsATensor, "answers-every-batch", "returned Tensor; it must return Advantages"),
        (WrongShape, "answers-every-batch", "returned shape [1, 1] for inputs of shape [1, 2]"),
        (NotANumber, "answers-every-batch", "Advantages.advantages: nan at index [0, 0]"),
        (SinglePrecision, "answers-every-batch", "A in torch.float32 on cpu, expected torch.float64 on cpu, as asked"),
        (OtherDevice, "answers-every-batch", "meta"),
        (WithGradient, "answers-every-batch", "A with a gradient, expected a detached tensor"),
        (LeaksGradient, "answers-every-batch", "a gradient into advantages"),
        (LeaksIntoReference, "answers-every-batch", "a gradient into ref_log_probs"),
        (ChangesInputs, "inputs-untouched", "rewards changed in place"),
        (CleansInputsInPlace, "inputs-untouched", "rewards changed in place"),
        (KeepsState, "repeatable", "as in the first call"),
        (TorchRandom, "repeatable", "global randomness used"),
        (DrawsForNothing, "repeatable", "global randomness used"),
    ],
)
def test_a_bad_component_fails_the_law_that_says_so(component, law, says):
    verdicts = judged(component)
    assert verdicts[law].status == "failed"
    assert says in verdicts[law].message
    assert verdicts[law].counterexample is not None
    assert len(verdicts) > 10  # the others went on


def test_a_sound_component_passes():
    assert {verdict.status for verdict in judged(Rewards).values()} == {"passed", "skipped", "not_claimed"}


def test_a_component_that_never_returns_fails_by_its_time_limit():
    begin = time.perf_counter()
    verdict = judged(NeverReturns, time_limit=0.5)["answers-every-batch"]
    assert verdict.message == "got time limit: it did not return, expected an answer within 0.5 s"
    assert time.perf_counter() - begin < 20


def test_a_component_that_hangs_at_times_is_judged_by_the_rest():
    verdicts = judged(HangsOnTwoRows, time_limit=2)
    assert verdicts["answers-every-batch"].status == "failed"
    assert verdicts["padding-width-ignored"].status == "passed"


@pytest.mark.parametrize("component", [ChangesInputs, CleansInputsInPlace])
def test_a_component_that_changes_its_inputs_leaves_no_trace_in_the_cases(component):
    alike = [verdict.to_dict() | {"seconds": 0} for verdict in verify(KeepsNothing, examples=15)]
    judged(component)
    assert [verdict.to_dict() | {"seconds": 0} for verdict in verify(KeepsNothing, examples=15)] == alike


class KeepsNothing(Rewards):
    """Wrong in its own way: the rewards of the row, summed up whatever ends."""

    name = "keeps_nothing"

    def answer(self, rewards, batch):
        return Advantages(clean(rewards.cumsum(-1), batch.valid))


@pytest.mark.parametrize("component", [KeepsNothing, TorchRandom])
def test_the_same_seed_gives_the_same_verdicts_and_counterexamples(component):
    first = [verdict.to_dict() | {"seconds": 0} for verdict in verify(component, examples=15, seed=3)]
    draw.cache_clear()
    random.random()
    torch.rand(3)
    assert [verdict.to_dict() | {"seconds": 0} for verdict in verify(component, examples=15, seed=3)] == first


def test_verification_leaves_the_global_random_generators_alone():
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()
    judged(TorchRandom)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert np.random.get_state()[1].tolist() == before[2]


def test_a_law_asked_for_alone_gets_the_same_verdict():
    whole = judged(KeepsNothing)
    failed = [name for name, verdict in whole.items() if verdict.status == "failed"]
    assert failed
    for name in failed:
        assert judged(KeepsNothing, only=[name])[name].status == "failed"


def test_a_law_that_raises_is_told_and_the_others_go_on():
    registry = Registry()
    registry.properties.append(
        Property("sums-up", "advantage", "?", "none", False, lambda subject, case: subject(case)["B"])
    )
    verdicts = judged(Rewards, registry=registry)
    assert verdicts["sums-up"].status == "failed"
    assert "KeyError while checking: 'B'" in verdicts["sums-up"].message
    assert verdicts["repeatable"].status == "passed"


def test_what_cannot_be_measured_of_an_unclaimed_property_is_told():
    def measure(subject):
        raise RuntimeError("no world of this size")

    registry = Registry()
    law = Property("is-fair", "advantage", "?", "none", True, lambda subject, case: None, measure=measure)
    registry.properties.append(law)
    verdict = judged(Rewards, registry=registry)["is-fair"]
    assert (verdict.status, verdict.message) == ("not_claimed", "could not be measured: no world of this size")


def test_a_failed_assertion_of_a_plugins_law_is_a_verdict():
    def check(subject, case):
        assert float(subject(case)["A"].abs().max()) < 2, "advantages are small"

    registry = Registry()
    registry.properties.append(Property("is-small", "advantage", "|A| < 2", "none", False, check))
    verdict = judged(Rewards, registry=registry)["is-small"]
    assert verdict.counterexample is not None
    assert verdict.counterexample.got == "advantages are small"
    assert verdict.counterexample.inputs["rewards"] in ([2.0], [-2.0])  # shrunk to a single step


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"only": ["repeatabel"]}, "no property of 'rewards' is called 'repeatabel'. Did you mean 'repeatable'?"),
        ({"examples": 0}, "examples: expected at least 1, found 0"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(LabError, match=says):
        verify(Rewards, **options)


def declares(**declared):
    return type("Declares", (Rewards,), {"__module__": __name__, "name": "declares", **declared})


def raise_an_error(self):
    raise RuntimeError("not set up")


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"claims": frozenset({"future-onyl"})}, "claims 'future-onyl'. Did you mean 'future-only'?"),
        ({"claims": ["future-onyl"]}, "claims 'future-onyl'. Did you mean 'future-only'?"),
        ({"implements": "gea"}, "no definition of record 'gea' for role advantage. Did you mean 'gae'?"),
        ({"requires": frozenset({"vlaues"})}, "advantage 'declares' needs 'vlaues'. Did you mean 'values'?"),
        ({"requires": ["values"]}, "needs ['values']; expected a set of names"),
        ({"needs": raise_an_error}, "'declares' cannot be built with its defaults: RuntimeError: not set up"),
    ],
)
def test_a_component_that_says_wrong_things_of_itself_is_refused(declared, says):
    with pytest.raises(LabError) as error:
        verify(declares(**declared))
    assert says in str(error.value)


def test_a_case_is_shown_in_one_line_and_a_step_that_does_not_count_as_a_dash():
    example = judged(CleansInputsInPlace)["inputs-untouched"].counterexample
    assert show_case(CleansInputsInPlace, example) == "rewards=[-] terminated=[-] valid=[False]"


class ManyParameters(Rewards):
    name = "many_parameters"
    a: float = 1.0
    b: float = 2.0
    c: int | None = 3
    d: float = 4.0


def test_of_many_parameters_only_unusual_ones_are_shown():
    example = Counterexample(
        {"a": 1.0, "b": 0.5, "c": None, "d": 4.0}, {"rewards": [[1.0, None], [0.25, -2.0]]}, "", ""
    )
    assert show_case(ManyParameters, example) == "rewards=[[1, -], [0.25, -2]]  b=0.5 c=None"
    assert show_case(Rewards, Counterexample({"gamma": 1.0}, {}, "", "")) == "gamma=1"


def test_json_gets_texts_for_numbers_that_it_does_not_know():
    assert for_json({"clip": float("inf"), "x": [1.5, None, True]}) == {"clip": "inf", "x": [1.5, None, True]}


def test_what_a_slot_may_hold_besides_its_default_is_verified_too() -> None:
    class OfPairs(DPO):
        """Reads rankings of more than two from the worst to the best."""

        name = "of_pairs"

        def __call__(self, batch: Rankings) -> Loss:
            turned = batch.log_probs.flip(-1) if batch.log_probs.shape[-1] > 2 else batch.log_probs
            return super().__call__(replace(batch, log_probs=turned))

    failed = {verdict.property.id for verdict in verify(OfPairs, examples=40) if verdict.status == "failed"}
    assert failed >= {"is-dpo", "orders-sum-to-one"}
    assert [verdict.status for verdict in verify(OfPairs(), examples=10, only=["is-dpo"])] == ["passed"]


def test_a_name_that_several_papers_share_is_told_with_its_qualifiers() -> None:
    told = did_you_mean("rpo", ["dpo", "orpo", "rpo_sft", "rpo_iterative"])
    assert told.startswith("Did you mean 'rpo_iterative' or 'rpo_sft'? ")

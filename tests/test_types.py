"""The border: a good batch passes, a bad one is refused with batch, field and index; ``link_values`` by hand."""

from __future__ import annotations

from dataclasses import fields as dataclass_fields
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_lab.types import (
    Advantages,
    BatchError,
    Loss,
    PolicyBatch,
    Rankings,
    Scores,
    Trajectories,
    ValueBatch,
    Weights,
    clean,
    link_values,
)

NAN = float("nan")


def floats(*shape: int) -> Tensor:
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).view(shape)


def bools(*rows: str) -> Tensor:
    """One character per step: 1 is True."""
    return torch.tensor([[c == "1" for c in row] for row in rows])


def trajectories(**changes: Any) -> Trajectories:
    """Two rows of three steps; the first ends with a termination, the second with padding after a truncation."""
    fields: dict[str, Any] = {
        "rewards": floats(2, 3),
        "terminated": bools("001", "000"),
        "truncated": bools("000", "010"),
        "valid": bools("111", "110"),
        "values": floats(2, 3),
        "next_values": floats(2, 3),
        "log_probs": -floats(2, 3),
        "target_log_probs": -floats(2, 3),
        "ref_log_probs": -floats(2, 3),
        "group_ids": torch.tensor([4, 4]),
        "baseline_scores": floats(2),
        "score_norms": floats(2, 3),
    }
    return Trajectories(**(fields | changes))


def batches() -> dict[type, dict[str, Any]]:
    """A good set of fields for every batch, with all optional ones."""
    steps = {"valid": bools("111", "110"), "ends": bools("001", "010")}
    pairs = {"valid": bools("11", "11"), "ranks": torch.tensor([[0, 1], [0, 0]]), "targets": floats(2, 2)}
    rows = {"preference_prob": floats(2) / 2, "margins": floats(2), "weights": floats(2), "uniforms": floats(2)}
    return {
        Advantages: {"advantages": floats(2, 3), "returns": floats(2, 3)},
        PolicyBatch: {
            "log_probs": floats(2, 3),
            "advantages": floats(2, 3),
            **steps,
            "old_log_probs": floats(2, 3),
            "ref_log_probs": floats(2, 3),
            "behaviour_log_probs": floats(2, 3),
            "entropy": floats(2, 3),
            "group_ids": torch.tensor([0, 1]),
            "uniforms": floats(2, 3),
            "state": {"mean": floats(1)},
        },
        ValueBatch: {"values": floats(2, 3), "returns": floats(2, 3), **steps, "old_values": floats(2, 3)},
        Rankings: {
            "log_probs": floats(2, 2),
            **pairs,
            **rows,
            "ref_log_probs": floats(2, 2),
            "lengths": torch.tensor([[3, 2], [1, 3]]),
            "desirable": bools("10", "01"),
            "gains": floats(2, 2),
            "mismatched_log_probs": floats(2, 2),
            "mismatched_ref_log_probs": floats(2, 2),
            "token_kl": floats(2, 2),
            "token_log_probs": floats(2, 2, 3),
            "token_ref_log_probs": floats(2, 2, 3),
            "token_valid": torch.ones(2, 2, 3, dtype=torch.bool),
        },
        Scores: {"scores": floats(2, 2), **pairs, **rows},
        Loss: {"values": floats(2, 3), "weights": floats(2, 3), "metrics": {"clipped": floats(2, 3)}},
        Weights: {"weights": floats(2, 3), "total": floats(2, 3)},
    }


ALL = {Trajectories: vars(trajectories()), **batches()}
NAMES = {batch: [f.name for f in dataclass_fields(batch)] for batch in ALL}
OPTIONAL = [(batch, f.name) for batch in ALL for f in dataclass_fields(batch) if f.default is None]
TENSORS = [(batch, name) for batch, fields in ALL.items() for name, x in fields.items() if isinstance(x, Tensor)]


def test_the_samples_of_this_file_fill_every_field() -> None:
    lacking = {(b.__name__, n) for b, fields in ALL.items() for n in NAMES[b] if fields.get(n) is None}
    assert lacking <= {("ValueBatch", "uniforms"), ("ValueBatch", "state"), ("Rankings", "state"), ("Scores", "state")}


@pytest.mark.parametrize("batch", ALL, ids=lambda batch: batch.__name__)
def test_a_good_batch_is_accepted_and_keeps_its_tensors(batch: type) -> None:
    made = batch(**ALL[batch])
    assert all(getattr(made, name) is x for name, x in ALL[batch].items())


@pytest.mark.parametrize(("batch", "name"), OPTIONAL)
def test_an_optional_field_may_be_left_out(batch: type, name: str) -> None:
    made = batch(**{key: x for key, x in ALL[batch].items() if key != name})
    assert getattr(made, name) is None


def test_leading_axes_are_free() -> None:
    for leading in ((), (5,), (2, 3, 1)):
        flags = torch.zeros(*leading, 4, dtype=torch.bool)
        assert Trajectories(floats(*leading, 4), flags, flags, ~flags).rewards.shape == (*leading, 4)


def test_rows_without_steps_are_accepted() -> None:
    flags = torch.zeros(2, 0, dtype=torch.bool)
    assert Trajectories(floats(2, 0), flags, flags, flags).rewards.shape == (2, 0)


@pytest.mark.parametrize(("batch", "name"), [pair for pair in TENSORS if pair[1] != NAMES[pair[0]][0]])
def test_a_trailing_axis_of_one_is_refused_not_stretched(batch: type, name: str) -> None:
    with pytest.raises(BatchError, match=rf"^{batch.__name__}\.{name}: expected shape .*, found shape"):
        batch(**(ALL[batch] | {name: ALL[batch][name][..., None]}))


@pytest.mark.parametrize(("batch", "name"), TENSORS)
def test_a_wrong_dtype_is_refused(batch: type, name: str) -> None:
    value = ALL[batch][name]
    wrong = value.double() if value.dtype != torch.float32 else value.bool()
    with pytest.raises(BatchError, match=rf"^{batch.__name__}\.{name}: expected an? .* tensor"):
        batch(**(ALL[batch] | {name: wrong}))


def test_one_float_dtype_per_batch() -> None:
    with pytest.raises(BatchError, match=r"Trajectories\.values: expected dtype torch.float32 .* torch.float64"):
        trajectories(values=floats(2, 3).double())


@pytest.mark.parametrize(("batch", "name"), TENSORS)
def test_what_is_no_tensor_is_refused(batch: type, name: str) -> None:
    with pytest.raises(BatchError, match=rf"^{batch.__name__}\.{name}: expected a tensor.*found \[1\.0\]"):
        batch(**(ALL[batch] | {name: [1.0]}))


def test_a_required_field_may_not_be_none() -> None:
    with pytest.raises(BatchError, match=r"Trajectories\.valid: expected a tensor, found None"):
        trajectories(valid=None)


def test_a_scalar_is_no_row_of_steps() -> None:
    with pytest.raises(BatchError, match=r"Weights\.weights: expected a tensor \[\*b,t\], found shape \[\]"):
        Weights(torch.tensor(1.0), torch.tensor(1.0))


FINITE = [
    *[(Trajectories, n) for n in ("rewards", "values", "next_values", "log_probs", "target_log_probs")],
    *[(Trajectories, n) for n in ("ref_log_probs", "score_norms")],
    *[(PolicyBatch, n) for n in ("advantages", "old_log_probs", "ref_log_probs", "behaviour_log_probs")],
    *[(ValueBatch, n) for n in ("returns", "old_values")],
    *[(Rankings, n) for n in ("log_probs", "ref_log_probs", "targets", "gains", "token_kl")],
    *[(Scores, n) for n in ("scores", "targets")],
]


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize(("batch", "name"), FINITE)
def test_a_number_that_counts_must_be_finite(batch: type, name: str, bad: float) -> None:
    value = ALL[batch][name].clone()
    value[1, 0] = bad
    with pytest.raises(BatchError, match=rf"^{batch.__name__}\.{name}: {bad} at index \[1, 0\]; must be finite"):
        batch(**(ALL[batch] | {name: value}))


@pytest.mark.parametrize(("batch", "name"), FINITE)
def test_what_stands_at_invalid_steps_may_be_nan(batch: type, name: str) -> None:
    value = ALL[batch][name].clone()
    value[1, -1] = NAN
    valid = torch.ones_like(value, dtype=torch.bool)
    valid[1, -1] = False
    assert getattr(batch(**(ALL[batch] | {name: value, "valid": valid})), name) is value


def test_infinities_of_both_signs_do_not_cancel() -> None:
    with pytest.raises(BatchError, match=r"Trajectories\.rewards: inf at index \[0, 0\]"):
        trajectories(rewards=torch.tensor([[float("inf"), -float("inf"), 0.0], [0.0, 0.0, 0.0]]))


def test_large_finite_numbers_are_accepted_though_their_sum_overflows() -> None:
    assert trajectories(rewards=torch.full((2, 3), 3e38)).rewards.amax() > 2e38


@pytest.mark.parametrize(
    ("batch", "name"),
    [
        (Trajectories, "baseline_scores"),
        (Advantages, "advantages"),
        *[(batch, n) for batch in (Rankings, Scores) for n in ("preference_prob", "margins", "weights")],
    ],
)
def test_a_number_without_steps_must_be_finite_everywhere(batch: type, name: str) -> None:
    value = ALL[batch][name].clone()
    value[0] = NAN
    with pytest.raises(BatchError, match=rf"^{batch.__name__}\.{name}: nan at index \[0.*everywhere"):
        batch(**(ALL[batch] | {name: value}))


def test_next_values_may_be_nan_where_terminated() -> None:
    value = floats(2, 3)
    value[0, 2] = NAN
    assert trajectories(next_values=value).next_values is value


@pytest.mark.parametrize("flag", ["terminated", "truncated"])
def test_an_end_at_an_invalid_step_is_refused(flag: str) -> None:
    with pytest.raises(BatchError, match=r"terminated or truncated is True at an invalid step.*last valid step"):
        trajectories(**{flag: bools("000", "001")})


def test_both_flags_may_be_set() -> None:
    assert bool(trajectories(truncated=bools("001", "010")).truncated[0, 2])


def test_trajectories_are_detached() -> None:
    made = trajectories(values=floats(2, 3).requires_grad_(), log_probs=floats(2, 3).requires_grad_())
    assert not made.values.requires_grad and not made.log_probs.requires_grad


@pytest.mark.parametrize(
    ("batch", "name"), [(PolicyBatch, "log_probs"), (PolicyBatch, "entropy"), (ValueBatch, "values")]
)
def test_what_is_learned_keeps_its_gradient(batch: type, name: str) -> None:
    assert getattr(batch(**(ALL[batch] | {name: floats(2, 3).requires_grad_()})), name).requires_grad


@pytest.mark.parametrize("batch", ALL, ids=lambda batch: batch.__name__)
def test_a_batch_is_frozen(batch: type) -> None:
    with pytest.raises(AttributeError, match="cannot assign"):
        setattr(batch(**ALL[batch]), NAMES[batch][0], floats(2, 3))


def test_a_metric_has_the_shape_of_the_loss() -> None:
    with pytest.raises(BatchError, match=r"Loss\.metrics\['kl'\]: expected the shape of values, found shape \[2\]"):
        Loss(floats(2, 3), metrics={"kl": floats(2)})


def test_a_metric_is_detached() -> None:
    with pytest.raises(BatchError, match=r"Loss\.metrics\['kl'\]: expected a detached tensor"):
        Loss(floats(2, 3), metrics={"kl": floats(2, 3).requires_grad_()})


def test_a_loss_may_be_one_number() -> None:
    assert Loss(torch.tensor(1.0)).values.shape == ()


def test_token_fields_have_one_axis_more() -> None:
    with pytest.raises(BatchError, match=r"Rankings\.token_log_probs: expected shape \[2, 2, 't'\]"):
        Rankings(floats(2, 2), token_log_probs=floats(2, 3, 4))


def test_clean_puts_zeros_where_not_valid_so_that_gradients_stay_finite() -> None:
    x = torch.tensor([2.0, NAN], requires_grad=True)
    clean(x, torch.tensor([True, False])).square().sum().backward()
    assert x.grad.tolist() == [4.0, 0.0]


def linked(values: list[float], flags: str, given: list[float] | None = None) -> list[float]:
    """Link one row. Flags by step: . goes on, T terminated, C cut, B both, x invalid."""
    row = torch.tensor(values)
    terminated, truncated, valid = (torch.tensor([c in s for c in flags]) for s in ("TB", "CB", ".TCB"))
    return link_values(row, terminated, truncated, valid, None if given is None else torch.tensor(given)).tolist()


def test_inside_an_episode_the_next_value_is_that_of_the_next_step() -> None:
    assert linked([1, 2, 3], "..T") == [2, 3, 0]


def test_invalid_steps_are_skipped_and_hold_zero() -> None:
    # valid steps 0, 3, 4: V(s_3) = 4 follows step 0; steps 1 and 2 are holes
    assert linked([1, NAN, NAN, 4, 5], ".xx.T") == [4, 0, 0, 5, 0]


def test_packed_episodes_do_not_see_each_other() -> None:
    # the cut at step 1 takes its own 9, not the 3 of the next episode; steps 2, 3 are an episode of their own
    assert linked([1, 2, 3, 4], ".C.T", [2, 9, 4, NAN]) == [2, 9, 4, 0]


def test_padding_after_an_end_changes_nothing() -> None:
    assert linked([1, 2, NAN, NAN], ".Txx") == [2, 0, 0, 0]


def test_a_live_edge_takes_what_was_given() -> None:
    # step 1 is the row's last valid one and has no flag
    assert linked([1, 2, NAN], "..x", [2, 7, NAN]) == [2, 7, 0]


def test_termination_wins_where_both_flags_are_set() -> None:
    assert linked([1, 2], ".B", [2, 7]) == [2, 0]


@pytest.mark.parametrize(("flags", "index"), [("..", 1), ("C.", 0), (".C", 1)])
def test_a_truncation_or_live_edge_needs_next_values(flags: str, index: int) -> None:
    with pytest.raises(BatchError, match=rf"index \[{index}\] is a truncation or live edge and needs next_values"):
        linked([1, 2], flags)


def test_next_values_that_differ_inside_an_episode_are_refused() -> None:
    with pytest.raises(BatchError, match=r"next_values is 9\.0 at index \[0\].*next valid step is 2\.0"):
        linked([1, 2], ".T", [9, 0])


def test_rows_are_linked_separately_and_leading_axes_are_free() -> None:
    values, none = floats(2, 1, 2), torch.zeros(2, 1, 2, dtype=torch.bool)
    ends = none.clone()
    ends[..., 1] = True
    assert link_values(values, ends, none, ~none).tolist() == [[[2, 0]], [[4, 0]]]


def test_rows_without_steps_are_linked() -> None:
    none = torch.zeros(2, 0, dtype=torch.bool)
    assert link_values(floats(2, 0), none, none, none).shape == (2, 0)


@pytest.mark.parametrize("batch", [Rankings, Scores])
@pytest.mark.parametrize("bad", [-0.25, 1.25])
def test_a_preference_is_a_probability(batch: type, bad: float) -> None:
    given = batches()[batch] | {"preference_prob": torch.tensor([0.5, bad])}
    with pytest.raises(BatchError, match=rf"^{batch.__name__}\.preference_prob: expected numbers from 0 to 1"):
        batch(**given)


def test_a_response_has_a_token_unless_it_is_missing() -> None:
    given = batches()[Rankings] | {"lengths": torch.tensor([[3, 2], [1, 0]])}
    with pytest.raises(BatchError, match="a valid response has no token"):
        Rankings(**given)
    Rankings(**given | {"valid": bools("11", "10")})

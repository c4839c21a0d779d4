"""A component is one frozen pydantic class; a slot holds another component."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import torch
from pydantic import BaseModel, Field, ValidationError
from pydantic.errors import PydanticUserError

from rlhf_lab.components import (
    AdvantageEstimator,
    Component,
    PolicyObjective,
    PreferenceObjective,
    RewardObjective,
    Slot,
)
from rlhf_lab.errors import describe
from rlhf_lab.types import Advantages, Loss, PolicyBatch, Rankings, Scores, Trajectories


class MyGAE(AdvantageEstimator):
    """The plugin of the README: backwards over one unpacked row."""

    name = "my_gae"
    reference = "Schulman et al. 2016, eq. 16"
    requires = frozenset({"values", "next_values"})
    claims = frozenset({"lambda-one-is-monte-carlo"})
    gamma: float = Field(default=0.99, ge=0, le=1, description="discount per step")
    lam: float = Field(default=0.95, ge=0, le=1, description="weight of longer returns")

    def __call__(self, batch: Trajectories) -> Advantages:
        delta = batch.rewards + self.gamma * batch.next_values.masked_fill(batch.terminated, 0) - batch.values
        advantages, carry = torch.zeros_like(delta), torch.zeros_like(delta[..., 0])
        for t in reversed(range(delta.shape[-1])):
            goes_on = ~(batch.terminated | batch.truncated)[..., t]
            carry = delta[..., t] + self.gamma * self.lam * goes_on * carry
            advantages[..., t] = carry
        return Advantages(advantages, advantages + batch.values)


class Inner(RewardObjective):
    """Something to put into a slot."""

    name = "inner"
    lam: float = Field(default=1.0, ge=0, description="a number")
    mode: str = Field(default="a", pattern="^[ab]$", description="a word")

    def __call__(self, batch: Scores) -> Loss:
        return Loss(batch.scores[..., 0] * self.lam)


class Outer(PreferenceObjective):
    """A component that holds another."""

    name = "outer"
    inner: Annotated[RewardObjective, Slot("reward_model")] = Inner()

    def __call__(self, batch: Rankings) -> Loss:
        return self.inner(Scores(batch.log_probs))


class Both(BaseModel):
    """A spec in small."""

    objective: Annotated[PreferenceObjective, Slot("preference")] = Outer()


class Names:
    """What a slot asks of a registry."""

    def get(self, role: str, name: str) -> type[Component]:
        found = {("reward_model", "inner"): Inner, ("preference", "outer"): Outer}.get((role, name))
        if found is None:
            raise LookupError(f"no {role} is called {name!r}")
        return found


def validated(data: Any, model: type[BaseModel] = Outer) -> Any:
    return model.model_validate(data, context={"registry": Names()})


def complaints(data: Any, model: type[BaseModel] = Outer) -> str:
    with pytest.raises(ValidationError) as caught:
        validated(data, model)
    return describe(caught.value, fields=model.model_fields)


def test_a_component_works_without_registry_and_yaml() -> None:
    flags = torch.tensor([False, True])
    batch = Trajectories(
        torch.tensor([1.0, 2.0]), flags, flags & False, flags | True,
        values=torch.tensor([0.5, 0.25]), next_values=torch.tensor([0.25, 0.0]),
    )  # fmt: skip
    # delta = [1 + .5 * .25 - .5, 2 - .25] = [.625, 1.75]; A = [.625 + .25 * 1.75, 1.75]
    assert MyGAE(gamma=0.5, lam=0.5)(batch).advantages.tolist() == [1.0625, 1.75]


def test_it_serialises_with_its_name() -> None:
    assert MyGAE(lam=0.5).model_dump() == {"name": "my_gae", "gamma": 0.99, "lam": 0.5}


def test_a_held_component_serialises_with_its_own_name() -> None:
    assert Outer().model_dump() == {"name": "outer", "inner": {"name": "inner", "lam": 1.0, "mode": "a"}}
    assert Outer().model_dump_json() == '{"name":"outer","inner":{"name":"inner","lam":1.0,"mode":"a"}}'


def test_what_is_serialised_can_be_read_again() -> None:
    made = Outer(inner=Inner(lam=3.0))
    assert validated({key: x for key, x in made.model_dump().items() if key != "name"}) == made


def test_it_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        MyGAE().lam = 0.5  # type: ignore[misc]


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ValidationError, match="lama"):
        MyGAE(lama=0.5)


def test_a_parameter_out_of_its_bounds_is_refused() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        MyGAE(lam=1.5)


def test_needs_are_what_it_requires() -> None:
    assert MyGAE().needs() == {"values", "next_values"}


def test_a_component_without_call_cannot_be_made() -> None:
    class Half(AdvantageEstimator):
        name = "half"

    with pytest.raises(TypeError, match=r"abstract.*__call__"):
        Half()


@pytest.mark.filterwarnings("ignore:Field name")  # pydantic sees the annotation, too
@pytest.mark.parametrize("attribute", ["name", "requires", "scope", "stacked"])
def test_annotated_metadata_is_refused(attribute: str) -> None:
    body = {"__annotations__": {attribute: "str"}, attribute: "x", "__module__": __name__}
    with pytest.raises(
        TypeError, match=f"Bad: '{attribute}' is metadata and must not be annotated; write `{attribute} = "
    ):
        type("Bad", (AdvantageEstimator,), body)


@pytest.mark.filterwarnings("ignore:Field name")  # pydantic sees the annotation, too
def test_annotated_metadata_of_a_role_is_refused() -> None:
    with pytest.raises(TypeError, match="'aggregations' is metadata"):

        class Bad(PolicyObjective):
            aggregations: tuple[str, ...] = ("token_mean",)  # type: ignore[misc]

            def __call__(self, batch: PolicyBatch) -> Loss: ...


def test_misspelt_metadata_is_refused() -> None:
    with pytest.raises(PydanticUserError, match=r"non-annotated attribute.*requiers"):

        class Bad(AdvantageEstimator):
            name = "bad"
            requiers = frozenset({"values"})


def test_a_parameter_without_default_is_refused() -> None:
    with pytest.raises(TypeError, match="Bad: hyper-parameter 'lam' has no default"):

        class Bad(AdvantageEstimator):
            name = "bad"
            lam: float


def test_a_subclass_of_a_component_is_checked_too() -> None:
    with pytest.raises(TypeError, match="Bad: hyper-parameter 'extra' has no default"):

        class Bad(MyGAE):
            extra: float


def test_a_base_class_without_name_may_lack_defaults() -> None:
    class Base(AdvantageEstimator):
        lam: float

    class Done(Base):
        name = "done"
        lam: float = 0.5

    assert Done.model_fields["lam"].default == 0.5


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(TypeError, match="Bad: scope 'row' is none of step, item, episode, group, batch"):

        class Bad(AdvantageEstimator):
            name = "bad"
            scope = "row"  # type: ignore[assignment]


@pytest.mark.parametrize("attribute", ["requires", "claims", "aggregations"])
def test_a_text_where_names_are_due_is_refused(attribute: str) -> None:
    body = {"name": "bad", attribute: "values", "__module__": __name__}
    with pytest.raises(TypeError, match=f"Bad: {attribute} is the text 'values'; write a collection of names"):
        type("Bad", (PolicyObjective,), body)


@pytest.mark.parametrize("given", [Inner(), "inner", {"name": "inner"}, {"name": "inner", "lam": 1.0}])
def test_a_slot_takes_an_object_a_name_or_a_mapping(given: Any) -> None:
    assert validated({"inner": given}).inner == Inner()


def test_a_slot_has_an_object_for_default() -> None:
    assert Outer().inner == Inner()


def test_parameters_reach_the_held_component() -> None:
    assert validated({"inner": {"name": "inner", "lam": 3}}).inner.lam == 3.0


def test_a_component_of_another_role_is_refused() -> None:
    found = complaints({"inner": MyGAE()})
    assert found == "inner: expected a component of role 'reward_model', found 'my_gae' of role 'advantage'"


@pytest.mark.parametrize("given", [3, None, ["inner"], {"lam": 1.0}, {"name": 3}])
def test_what_is_no_component_is_refused(given: Any) -> None:
    assert complaints({"inner": given}).startswith("inner: expected a name or a mapping with 'name'")


def test_an_unknown_name_is_told() -> None:
    assert complaints({"inner": "other"}) == "inner: no reward_model is called 'other'"


def test_a_name_needs_a_registry() -> None:
    with pytest.raises(ValidationError, match="the name 'inner' needs a registry; pass a component or use"):
        Outer(inner="inner")


def test_errors_tell_the_path_through_nested_slots() -> None:
    data = {"objective": {"name": "outer", "inner": {"name": "inner", "lam": -1}}}
    assert complaints(data, Both) == "objective.inner.lam: Input should be greater than or equal to 0, found -1"


def test_an_unknown_parameter_of_a_held_component_names_the_nearest_one() -> None:
    data = {"objective": {"name": "outer", "inner": {"name": "inner", "lamb": 1}}}
    found = complaints(data, Both)
    assert found == "objective.inner.lamb: is no parameter here. Did you mean 'lam'? Possible: lam, mode."


def test_all_errors_are_told_at_once() -> None:
    found = complaints({"inner": {"name": "inner", "lam": -1, "mode": "c", "x": 1}})
    assert [line.split(":")[0] for line in found.splitlines()] == ["inner.lam", "inner.mode", "inner.x"]


class Either(BaseModel):
    """A value that may have several types."""

    x: tuple[float, ...] | tuple[tuple[float, ...], ...] = ()


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (2, "x: Input should be a valid tuple, found 2"),
        ([2, None], "x.1: Input should be a valid number, found None"),
        ([[2, None]], "x.0.1: Input should be a valid number, found None"),
    ],
)
def test_a_value_that_fits_none_of_several_types_is_told_by_its_place(x: Any, says: str) -> None:
    assert complaints({"x": x}, Either).splitlines()[0] == says


def test_each_place_is_told_once_whatever_the_types_that_it_might_have() -> None:
    assert complaints({"x": [None, None]}, Either).count("found None") == 2


def test_of_many_errors_the_first_are_told_and_the_others_counted() -> None:
    found = complaints({f"x{i}": 1 for i in range(9)}).splitlines()
    assert len(found) == 6 and found[-1] == "and 4 more"


def test_a_key_that_is_no_text_is_refused() -> None:
    assert complaints({"inner": {"name": "inner", 1: 2}}) == "inner.1: Keys should be strings, found 1"

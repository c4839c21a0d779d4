"""Laws of role advantage: where an episode ends, what lies behind an end, and which rows may matter."""

from __future__ import annotations

from typing import Any, Final

import torch

from rlhf_lab.components import Component
from rlhf_lab.conformance.inputs import map_fields, segments, take_rows, with_fields
from rlhf_lab.conformance.properties.advantage_baselines import BASELINE_CLAIMS
from rlhf_lab.conformance.properties.advantage_critics import CRITIC_CLAIMS
from rlhf_lab.conformance.properties.advantage_expectations import EXPECTATIONS
from rlhf_lab.conformance.properties.advantage_groups import GROUP_CLAIMS
from rlhf_lab.conformance.properties.advantage_invariances import INVARIANCE_CLAIMS
from rlhf_lab.conformance.properties.advantage_off_policy import OFF_POLICY
from rlhf_lab.conformance.property import Property, Violation, expect_equal, show_number
from rlhf_lab.conformance.subject import Subject

__all__ = ["PROPERTIES"]


def _bootstraps_on_truncation_only(subject: Subject, case: Any) -> None:
    if "next_values" not in subject.component.needs():
        return
    before = subject(case)
    ended = with_fields(case, {"next_values": case.next_values + 8 * case.terminated})
    expect_equal(subject(ended), before, case.valid, note="as before next_values rose by 8 at the terminated steps")
    last = [(e.row, e.steps[-1]) for e in segments(case) if e.end != "terminated"]
    if not last or subject.parameter("gamma", 1.0) == 0 or _episodic(subject.component):
        return
    cut = torch.zeros_like(case.valid)
    cut[tuple(zip(*last, strict=True))] = True
    after = subject(with_fields(case, {"next_values": case.next_values + 8 * cut}))
    for row, step in last:
        if bool(after["A"][row, step] == before["A"][row, step]):
            number = show_number(float(before["A"][row, step]))
            raise Violation(
                f"A[{row},{step}] = {number} for any next value", "one that depends on it: the episode was cut"
            )


def _termination_wins(subject: Subject, case: Any) -> None:
    before = subject(case)
    other = with_fields(case, {"truncated": case.truncated ^ case.terminated})
    note = "as before `truncated` was turned round at the terminated steps"
    expect_equal(subject(other), before, case.valid, note=note)


def _live_edge(subject: Subject, case: Any) -> None:
    found, cut = subject(case), case.truncated.clone()
    for episode in segments(case):
        if episode.end == "open":
            cut[episode.row, episode.steps[-1]] = True
    flagged = subject(with_fields(case, {"truncated": cut}))
    expect_equal(found, flagged, case.valid, note="as with `truncated` at the row's last step")


def _episodes_independent(subject: Subject, case: Any) -> None:
    """Give every episode a row of its own, all in one call."""
    episodes = segments(case)
    rows = [episode.row for episode in episodes]
    if len(set(rows)) == len(rows):
        return
    own = torch.zeros(len(rows), case.valid.shape[1], dtype=torch.bool)
    for row, episode in enumerate(episodes):
        own[row, list(episode.steps)] = True
    apart = take_rows(case, rows)
    masks = {name: getattr(apart, name) & own for name in ("valid", "terminated", "truncated")}
    part = {symbol: x[rows] for symbol, x in subject(case).items()}
    alone = subject(map_fields(apart, lambda name, _, x: masks.get(name, x)))
    expect_equal(part, alone, own, note="as the episode gets in a row of its own")


def _other_groups(subject: Subject, case: Any) -> None:
    whole = subject(case)
    ids = case.group_ids.tolist()
    for group in sorted(set(ids)):
        rows = [row for row, each in enumerate(ids) if each == group]
        part = {symbol: x[rows] for symbol, x in whole.items()}
        expect_equal(part, subject(take_rows(case, rows)), case.valid[rows], note=f"as group {group} gets alone")


def _group_labels(subject: Subject, case: Any) -> None:
    renamed = with_fields(case, {"group_ids": 7 - 3 * case.group_ids})
    expect_equal(subject(renamed), subject(case), case.valid, note="as with group_ids 7 - 3 id")


def _grouped(component: Component) -> str | None:
    return None if component.scope == "group" else f"its scope is {component.scope}"


def _episodic(component: Component) -> str | None:
    return None if component.scope in ("step", "episode") else f"its scope is {component.scope}"


def _with_critic(component: Component) -> str | None:
    return (
        None
        if "next_values" in component.needs() or "bootstrap" in type(component).model_fields
        else ("it does not read next_values")
    )


_PARDO: Final = "Pardo et al. 2018"

PROPERTIES: Final[list[Property]] = [
    Property(
        "bootstraps-on-truncation-only",
        "advantage",
        "a terminated step uses no next value; a truncated step does",
        _PARDO,
        False,
        _bootstraps_on_truncation_only,
        applies=_with_critic,
        reads=frozenset({"next_values"}),
    ),
    Property(
        "termination-wins",
        "advantage",
        "where both flags are set the step is terminated",
        "contract of rlhf_lab",
        False,
        _termination_wins,
    ),
    Property(
        "live-edge-is-a-truncation",
        "advantage",
        "an episode that runs off the row's edge without a flag gets what it would get if it were truncated there",
        _PARDO,
        False,
        _live_edge,
    ),
    Property(
        "episodes-independent",
        "advantage",
        "an episode gets what it would get alone, whatever stands before and after it in its row",
        "stable-baselines issue 385; pytorch/rl issue 4209",
        False,
        _episodes_independent,
        applies=_episodic,
    ),
    Property(
        "other-groups-irrelevant",
        "advantage",
        "a group gets what it would get alone, wherever its rows stand",
        "prime-rl issue 600; R1-V 67",
        False,
        _other_groups,
        applies=_grouped,
        reads=frozenset({"group_ids"}),
    ),
    Property(
        "group-ids-are-labels",
        "advantage",
        "other names for the groups change nothing",
        "contract of rlhf_lab",
        False,
        _group_labels,
        applies=_grouped,
        reads=frozenset({"group_ids"}),
    ),
    *CRITIC_CLAIMS,
    *INVARIANCE_CLAIMS,
    *BASELINE_CLAIMS,
    *GROUP_CLAIMS,
    *EXPECTATIONS,
    *OFF_POLICY,
]

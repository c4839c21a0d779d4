"""What a peer cannot express is refused, with the reason; and how rows are cut into its sequences."""

from __future__ import annotations

from torch import Tensor

from rlhf_lab.types import Refused

__all__ = ["blocks", "given", "refuse_empty", "refuse_invalid_steps", "responses", "sequences"]


def refuse_empty(x: Tensor) -> None:
    """Refuse a batch without a step: no peer promises an answer to it."""
    if x.numel() == 0:
        raise Refused("the batch has no step")


def refuse_invalid_steps(valid: Tensor, peer: str) -> None:
    """Refuse a batch with a step that does not count, for peers without a mask."""
    refuse_empty(valid)
    if not bool(valid.all()):
        raise Refused(f"{peer} has no mask: every step counts")


def given(x: Tensor | None, name: str) -> Tensor:
    """Return an optional field of a batch without gradient, as a peer's own loop gives it."""
    if x is None:
        raise Refused(f"{name} is None")
    return x.detach()


def sequences(valid: Tensor, ends: Tensor) -> list[tuple[int, Tensor]]:
    """Return row and valid positions of each episode of ``[rows, t]`` that has a valid step."""
    episode = ends.cumsum(-1) - ends.long()  # how many episodes ended before the step
    return [
        (row, (valid[row] & (episode[row] == number)).nonzero()[:, 0])
        for row in range(valid.shape[0])
        for number in sorted(set(episode[row][valid[row]].tolist()))
    ]


def responses(valid: Tensor, ends: Tensor) -> list[int]:
    """Return the rows of ``[rows, t]`` with a valid step, each of which must be one episode: a response."""
    refuse_empty(valid)
    rows = [row for row, _ in sequences(valid, ends)]
    if len(rows) != len(set(rows)):
        raise Refused("a row holds several episodes; a response is a row")
    if not rows:
        raise Refused("no row has a step that counts")
    return rows


def blocks(group_ids: Tensor, rows: list[int]) -> list[list[int]]:
    """Return the rows of each group, which must hold at least two."""
    ids = group_ids[rows].tolist()
    groups = [[row for row, own in zip(rows, ids, strict=True) if own == label] for label in dict.fromkeys(ids)]
    if min(map(len, groups)) < 2:
        raise Refused("a group of one response; at least two are asked for")
    return groups

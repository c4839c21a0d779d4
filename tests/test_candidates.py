"""``Candidates``: responses of other rows, as a reference point is estimated with."""

import pytest
import torch

from rlhf_lab.errors import LabError
from rlhf_lab.training.candidates import Candidates


def numbered(rows: int) -> Candidates:
    """Return rows whose prompt and whose two responses bear the row's number."""
    number = torch.arange(rows)[None]
    tokens = number[..., None].expand(1, rows, 2)
    return Candidates({"prompts": number, "tokens": tokens}, tokens + 1)


@pytest.mark.parametrize("rows", range(2, 8))
def test_every_response_is_used_once_with_a_prompt_that_is_not_its_own(rows: int) -> None:
    # reversing an odd number of rows would leave the middle one with its own responses (TRL issue 1911)
    found = numbered(rows).mismatched()
    assert found.inputs["prompts"].tolist() == [list(range(rows))]
    strangers = found.inputs["tokens"][0, :, 0]
    assert sorted(strangers.tolist()) == list(range(rows))
    assert (strangers != torch.arange(rows)).all()
    assert torch.equal(found.lengths[0, :, 1], strangers + 1)


def test_a_row_alone_has_no_strangers() -> None:
    with pytest.raises(LabError, match="two rows or more"):
        numbered(1).mismatched()

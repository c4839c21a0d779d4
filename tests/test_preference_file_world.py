"""``preference_file`` with the world of token strings: from rows of words to a learner and a study."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import rlhf_lab
from rlhf_lab.errors import LabError
from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.runner import start


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def written(*rows: object) -> str:
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return "data.jsonl"


PAIR = {"prompt": "0", "chosen": "c", "rejected": "aaa"}
SPEC: dict[str, Any] = {
    "environment": {"name": "sequences", "vocabulary": 3, "length": 3, "prompts": 2, "eos": 2},
    "policy": "tabular_autoregressive",
    "trainer": {"name": "offline", "minibatch": 4},
    "preference": "dpo",
    "optimizer": {"name": "sgd", "lr": 0.1},
    "gamma": 1.0,
}


def learner(data: dict[str, Any], seeds: Sequence[int] = (0,), **changes: Any) -> Any:
    return start(make_spec(SPEC | {"data": data} | changes, load_plugins())[0], list(seeds))


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        ({"candidates": 2}, {}),
        ({"candidates": 3}, {"preference": {"name": "dpo", "likelihood": "plackett_luce"}}),
        ({"candidates": 2, "ties": 2.0}, {"preference": {"name": "dpo", "likelihood": "davidson"}}),
        ({"form": "unpaired"}, {"preference": "kto"}),
    ],
)
def test_what_a_world_has_drawn_is_the_same_from_a_file(data, changes):
    drawn = learner({"name": "sampled", "rows": 20, **data}, **changes)
    rows = []
    for prompt, tokens, counted, ranks, desirable in zip(
        drawn.data.inputs["prompts"][0] // drawn.environment.tree.prefixes,
        drawn.data.inputs["tokens"][0],
        drawn.data.inputs["counted"][0],
        [None] * 20 if drawn.data.ranks is None else drawn.data.ranks[0],
        [None] * 20 if drawn.data.desirable is None else drawn.data.desirable[0],
        strict=True,
    ):
        words = ["".join("abc"[t] for t in x[n]) for x, n in zip(tokens, counted, strict=True)]
        row: dict[str, Any] = {"prompt": str(int(prompt))}
        if desirable is not None:
            row |= {"completion": words[0], "label": bool(desirable[0])}
        elif ranks is None and len(words) == 2:
            row |= dict(zip(("chosen", "rejected"), words, strict=True))
        else:
            row |= {"responses": words, "ranking": [1, 2, 3] if ranks is None else (ranks + 1).tolist()}
        rows.append(row)
    read = learner({"name": "preference_file", "path": written(*rows)}, **changes)
    for name, x in drawn.data.inputs.items():
        assert torch.equal(read.data.inputs[name], x)
    assert torch.equal(read.data.lengths, drawn.data.lengths)
    order = torch.arange(drawn.data.lengths.shape[2]).expand(drawn.data.lengths.shape)
    if drawn.data.desirable is None:
        assert torch.equal(read.data.ranks, order if drawn.data.ranks is None else drawn.data.ranks)
    else:
        assert torch.equal(read.data.desirable, drawn.data.desirable)
    for _ in range(3):
        assert torch.equal(read.step(0.0)["loss"], drawn.step(0.0)["loss"])


def test_a_run_is_the_same_whatever_runs_beside_it():
    rows = [{"prompt": "0", "chosen": a, "rejected": b} for a, b in (("aaa", "c"), ("bc", "aaa"), ("c", "ac"))] * 3
    data = {"name": "preference_file", "path": written(*rows)}
    together, alone = learner(data, (3, 5)), learner(data, (5,))
    for _ in range(4):
        losses = together.step(0.0)["loss"], alone.step(0.0)["loss"]
        assert torch.equal(losses[0][1:], losses[1])


def test_a_spec_tells_what_a_file_does_not_give():
    data = {"name": "preference_file", "path": written(PAIR)}
    with pytest.raises(LabError, match=r"preference: 'kto' needs desirable, .*data 'preference_file'"):
        learner(data, preference="kto")


def test_responses_of_other_rows_have_no_weight():
    with pytest.raises(
        LabError, match=r"data: has rows with weights, but preference 'kto' reads the responses of other"
    ):
        learner({"name": "population", "form": "unpaired"}, preference="kto")


@pytest.mark.parametrize("preference", ["dpo", "sppo", {"name": "dpo", "likelihood": "plackett_luce"}])
def test_a_tie_is_not_learned_as_a_preference(preference):
    rows = [{"prompt": "0", "responses": ["c", "aaa"], "ranking": ranking} for ranking in ([1, 2], [1, 1])]
    data = {"name": "preference_file", "path": written(*rows)}
    with pytest.raises(LabError, match=r"row 1 .* holds nothing but a tie, and so do 0 others; preference '\w+' would"):
        learner(data, preference=preference)


def test_what_the_world_cannot_read_is_named_by_file_and_line():
    data = {"name": "preference_file", "path": written(PAIR | {"rejected": "ax"})}
    with pytest.raises(LabError, match=r"data\.jsonl:1: response 'ax': 'x' is no token"):
        learner(data)


def test_a_run_directory_does_not_go_on_with_an_edited_file():
    study = {
        "title": "Of a file",
        "spec": SPEC | {"data": {"name": "preference_file", "path": written(PAIR)}, "budget": {"iterations": 2}},
        "seeds": 1,
        "measure": ["regularised"],
    }
    first = rlhf_lab.compare(study, out="out")
    digest = hashlib.sha256(Path("data.jsonl").read_bytes()).hexdigest()
    assert first.provenance["files"] == [{"name": "data.jsonl", "sha256": digest}]
    rlhf_lab.compare(study, out="out")
    written(PAIR, PAIR)
    with pytest.raises(LabError, match=r"^out holds arms computed before data\.jsonl had its present content"):
        rlhf_lab.compare(study, out="out")
    rlhf_lab.compare(study, out="another")

"""``preference_file``: rows of files as candidates of all runs, encoded by the environment."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lab.data.ranking import Ranking
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates
from rlhf_lab_preference import file
from rlhf_lab_preference.file import PreferenceFile

NOBODY: Any = None  # the reference policy, which files have no use for


class Letters:
    """An environment whose tokens are letters; its inputs are as wide as the longest text of a call."""

    def not_asked(self) -> None:
        raise AssertionError("a file needs only words to be read")

    spaces = None
    collect = exact = state_dict = load_state_dict = candidates = adopt = not_asked

    def encode(self, rankings: Sequence[Ranking]) -> Candidates:
        unknown = [row for row in rankings if "?" in "".join(map(str, row.responses))]
        if unknown:
            raise LabError(f"{unknown[0].place}: '?' is no token")
        k = max(len(row.responses) for row in rankings)
        texts = [[*row.responses, *[""] * (k - len(row.responses))] for row in rankings]
        width = max(len(text) for row in texts for text in row)
        tokens = torch.zeros(1, len(rankings), k, width, dtype=torch.int64)
        for i, row in enumerate(texts):
            for j, text in enumerate(row):
                tokens[0, i, j, : len(text)] = torch.tensor([ord(letter) for letter in text])
        prompts = torch.tensor([[int(row.prompt) for row in rankings]])
        return Candidates({"prompts": prompts, "tokens": tokens}, (tokens > 0).sum(-1))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    file._say.cache_clear()
    monkeypatch.chdir(tmp_path)


def written(*rows: object, name: str = "data.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def built(*rows: object, runs: int = 1, environment: object = None, **fields: Any) -> Candidates:
    component = PreferenceFile(path=written(*rows), **fields)
    return component.build(environment or Letters(), NOBODY, Streams(range(runs)))


PAIR = {"prompt": "7", "chosen": "ab", "rejected": "c"}


def test_pairs_become_candidates_best_first():
    found = built(PAIR)
    assert found.inputs["prompts"].tolist() == [[7]]
    assert found.inputs["tokens"].tolist() == [[[[97, 98], [99, 0]]]]
    assert found.lengths.tolist() == [[[2, 1]]]
    assert found.ranks.tolist() == [[[0, 1]]]
    assert (found.valid, found.desirable, found.targets, found.margins) == (None, None, None, None)


def test_all_runs_share_the_rows_without_a_copy():
    found = built(PAIR, PAIR | {"chosen": "dd"}, runs=3)
    assert found.lengths.tolist() == [[[2, 1], [2, 1]]] * 3
    assert {x.stride(0) for x in (*found.inputs.values(), found.lengths, found.ranks)} == {0}
    # a minibatch of shared rows is each run's own choice
    index = torch.tensor([[1], [0], [1]])
    assert found.select(index).inputs["tokens"][:, 0, 0, 0].tolist() == [100, 97, 100]


def test_rows_of_different_lengths_and_sizes_are_filled_up_over_all_chunks(monkeypatch):
    monkeypatch.setattr(file, "CHUNK", 2)
    found = built(
        {"prompt": "1", "responses": ["a", "b"], "ranking": [2, 1]},
        {"prompt": "2", "responses": ["c", "d"], "ranking": [1, 1]},
        {"prompt": "3", "responses": ["eeee", "f", "g"], "ranking": [1, 3, 2]},  # a second chunk, wider and longer
    )
    assert found.inputs["prompts"].tolist() == [[1, 2, 3]]
    assert found.valid.tolist() == [[[True, True, False], [True, True, False], [True, True, True]]]
    assert found.ranks.tolist() == [[[0, 1, 0], [0, 0, 0], [0, 1, 2]]]
    assert found.lengths.tolist() == [[[1, 1, 0], [1, 1, 0], [4, 1, 1]]]
    assert found.inputs["tokens"][0, :, 0].tolist() == [[98, 0, 0, 0], [99, 0, 0, 0], [101] * 4]


def test_labels_margins_and_scores_become_tensors():
    labelled = [{"prompt": "1", "completion": text, "label": text == "a"} for text in "ab"]
    found = built(*labelled)
    assert found.desirable.tolist() == [[[True], [False]]]
    assert found.ranks is None
    numbers = [PAIR | {"margin": n, "score_chosen": n + 1, "score_rejected": 0} for n in (1, 2)]
    found = built(*numbers)
    assert found.margins.tolist() == [[1.0, 2.0]]
    assert found.targets is None  # the order counts
    found = built(*numbers, use_scores=True)
    assert found.targets.tolist() == [[[2.0, 0.0], [3.0, 0.0]]]
    assert found.ranks is None  # the scores count


@pytest.mark.parametrize(
    ("row", "fields", "gives"),
    [
        (PAIR, {}, {"ranks"}),
        (PAIR | {"margin": 1}, {}, {"ranks", "margins"}),
        (PAIR | {"score_chosen": 1, "score_rejected": 0}, {"use_scores": True}, {"targets"}),
        (PAIR | {"completion": "x", "label": True}, {"form": "labels"}, {"desirable"}),
        ({"prompt": "1", "responses": ["a", "b"], "ranking": [1, 1]}, {}, {"ranks"}),
    ],
)
def test_what_a_file_gives_is_told_from_its_first_row(row, fields, gives):
    path = written(row)
    Path(path).write_text(Path(path).read_text(encoding="utf-8") + "{broken", encoding="utf-8")
    assert PreferenceFile(path=path, **fields).gives() == gives


def test_without_a_file_nothing_is_given_and_nothing_built():
    assert PreferenceFile().gives() == frozenset()
    with pytest.raises(LabError, match="no file of preference data is named"):
        PreferenceFile().build(Letters(), NOBODY, Streams([0]))


def test_scores_that_are_not_there_are_refused():
    with pytest.raises(LabError, match=r"data\.use_scores: pairs with the columns prompt, chosen, rejected have no"):
        PreferenceFile(path=written(PAIR), use_scores=True).gives()


def test_several_files_are_one_set_of_rows():
    component = PreferenceFile(path=(written(PAIR, name="b.jsonl"), written(PAIR | {"prompt": "8"}, name="a.jsonl")))
    assert component.build(Letters(), NOBODY, Streams([0])).inputs["prompts"].tolist() == [[7, 8]]
    component = PreferenceFile(path="*.jsonl", limit=1)
    assert component.build(Letters(), NOBODY, Streams([0])).inputs["prompts"].tolist() == [[8]]


def test_an_environment_without_words_is_refused():
    with pytest.raises(LabError, match="data 'preference_file': object cannot read responses in words; files need"):
        built(PAIR, environment=object())


def test_a_bad_row_stops_unless_it_is_to_be_skipped(caplog):
    rows = PAIR, PAIR | {"chosen": ""}, PAIR | {"chosen": "a?"}, PAIR | {"chosen": "d"}
    with pytest.raises(LabError, match=r"^data\.jsonl:2: chosen: is empty"):
        built(*rows)
    with pytest.raises(LabError, match=r"^data\.jsonl:2: '\?' is no token"):
        built(rows[0], *rows[2:])
    assert built(*rows, on_bad_row="skip").inputs["tokens"][0, :, 0, 0].tolist() == [97, 100]
    (record,) = caplog.records
    assert record.getMessage() == (
        "data.jsonl: 2 of 4 rows of the form pairs are used; skipped: "
        "1 x chosen: is empty, as data.jsonl:2: chosen: is empty; give it words, or remove the row; "
        "1 that the environment cannot read, as data.jsonl:3: '?' is no token"
    )


def test_what_was_read_is_logged_where_all_is_good(caplog):
    with caplog.at_level(logging.INFO):
        built(PAIR, PAIR)
    assert [record.getMessage() for record in caplog.records] == ["data.jsonl: 2 of 2 rows of the form pairs are used"]


def test_a_file_that_several_arms_read_is_told_of_once(caplog):
    for _ in range(2):
        built(PAIR, PAIR | {"chosen": ""}, on_bad_row="skip")
    assert len(caplog.records) == 1


def test_where_the_environment_reads_no_row_nothing_is_built():
    with pytest.raises(LabError, match=r"the environment can read none of 1 rows: data\.jsonl:1: '\?' is no token"):
        built(PAIR | {"chosen": "?"}, on_bad_row="skip")

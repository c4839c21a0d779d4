"""Reading preference data from files: what a row means, what is refused and where, and what is counted."""

import gzip
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from rlhf_lab.data import json_lines
from rlhf_lab.data.errors import BadDataError, BadRowError
from rlhf_lab.data.files import layout_of, read_rankings
from rlhf_lab.data.ranking import Ranking, Turn
from rlhf_lab.data.summary import Summary
from rlhf_lab.errors import LabError, MissingExtraError

PAIR = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
RANKED = {"prompt": "The sky is", "responses": ["low", "high", "mid"], "ranking": [3, 1, 2]}
LABELLED = {"prompt": "The sky is", "completion": " blue.", "label": True}
ASK = {"role": "user", "content": "What color is the sky?"}
DIALOGUE = "\n\nHuman: Why?\n\nAssistant:"
BLUE, GREEN = ({"role": "assistant", "content": word} for word in ("Blue.", "Green."))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def lines(*rows: object, name: str = "data.jsonl") -> str:
    """Write rows as JSON Lines; a text is written as it is."""
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    Path(name).write_text(text, encoding="utf-8")
    return name


def table(*rows: Mapping[str, object], name: str = "data.parquet", **options: object) -> str:
    parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), name, **options)
    return name


def read(path, **options) -> list[Ranking]:
    return list(read_rankings(path, **options))


def said(path, **options) -> str:
    """Return the message with which reading stops."""
    with pytest.raises(LabError) as stopped:
        read(path, **options)
    return str(stopped.value)


def summed(path, **options) -> Summary:
    summary = Summary()
    read(path, summary=summary, **options)
    return summary


# What a row means


WRITERS = pytest.mark.parametrize("write", [lines, table])


@WRITERS
def test_a_pair_is_read_best_first(write):
    assert read(write(PAIR)) == [Ranking("The sky is", (" blue.", " green."))]


@WRITERS
def test_messages_become_turns(write):
    row = {"prompt": [ASK], "chosen": [BLUE], "rejected": [GREEN]}
    turns = [(Turn(**message),) for message in (ASK, BLUE, GREEN)]
    assert read(write(row)) == [Ranking(turns[0], (turns[1], turns[2]))]


@WRITERS
def test_the_messages_that_two_conversations_share_are_the_prompt(write):
    explicit = {"prompt": [ASK], "chosen": [BLUE], "rejected": [GREEN]}
    implicit = {"chosen": [ASK, BLUE], "rejected": [ASK, GREEN]}
    assert read(write(implicit)) == read(write(explicit))


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is"),
        ("The sky is blue.", "The sky is black.", "The sky is"),  # they part within a word
        ("I like it", "I liked it", "I"),  # one of two words ends where they part
        ("Answer:A", "Answer:B", "Answer:"),  # no blank, and no word is cut
        ("天空是蓝色的", "天空是绿色的", "天空是"),  # words without blanks
        # a dialogue in one text: both answers begin alike, and the prompt ends before them
        (f"{DIALOGUE} I see.", f"{DIALOGUE} I do.", DIALOGUE),
    ],
)
def test_the_beginning_that_two_texts_share_is_the_prompt(chosen, rejected, prompt):
    (found,) = read(lines({"chosen": chosen, "rejected": rejected}))
    assert found == Ranking(prompt, (chosen.removeprefix(prompt), rejected.removeprefix(prompt)))


def test_whole_conversations_beside_a_prompt_are_taken_apart():
    # as in ultrafeedback_binarized: the text of the question, and two conversations that begin with it
    system = {"role": "system", "content": "Be brief."}
    row = {"prompt": ASK["content"], "chosen": [system, ASK, BLUE], "rejected": [system, ASK, GREEN]}
    summary = Summary()
    (found,) = read(lines(row), summary=summary)
    assert found.prompt == (Turn(**system), Turn(**ASK))
    assert found.responses == ((Turn(**BLUE),), (Turn(**GREEN),))
    told = "chosen and rejected are whole conversations; the prompt is all messages that both share"
    assert dict(summary.notes) == {told: 1}


def test_a_prompt_that_stands_in_the_responses_again_is_taken_once():
    row = {"prompt": [ASK], "chosen": [ASK, BLUE], "rejected": [ASK, GREEN]}
    summary = Summary()
    assert read(lines(row), summary=summary) == read(lines({"chosen": [ASK, BLUE], "rejected": [ASK, GREEN]}))
    assert summary.notes.total() == 1


@WRITERS
def test_ranking_is_the_rank_of_each_response(write):
    assert read(write(RANKED)) == [Ranking("The sky is", ("high", "mid", "low"))]


@pytest.mark.parametrize(
    ("ranking", "best_first", "ranks"),
    [
        ([1, 2, 1], ("low", "mid", "high"), (0, 0, 1)),  # low and mid share the first place
        ([1, 3, 1], ("low", "mid", "high"), (0, 0, 1)),  # the same, with the second place left out
        ([1.5, 3, 1.5], ("low", "mid", "high"), (0, 0, 1)),  # the same, with the mean of both places
        ([2, 1, 2], ("high", "low", "mid"), (0, 1, 1)),
        ([1, 1, 1], ("low", "high", "mid"), (0, 0, 0)),
        ([3.0, 1.0, 2.0], ("high", "mid", "low"), None),
    ],
)
def test_equal_ranks_are_ties(ranking, best_first, ranks):
    assert read(lines(RANKED | {"ranking": ranking})) == [Ranking("The sky is", best_first, ranks)]


@WRITERS
def test_a_label_says_whether_a_completion_is_desirable(write):
    rows = LABELLED, LABELLED | {"completion": " green.", "label": False}
    assert read(write(*rows)) == [
        Ranking("The sky is", (" blue.",), labels=(True,)), Ranking("The sky is", (" green.",), labels=(False,)),
    ]  # fmt: skip


@WRITERS
def test_pairs_carry_margin_and_scores(write):
    (found,) = read(write(PAIR | {"margin": 2, "score_chosen": 8.5, "score_rejected": 4}))
    assert (found.margin, found.scores) == (2.0, (8.5, 4.0))


@pytest.mark.parametrize(("write", "place"), [(lines, "data.jsonl:2"), (table, "data.parquet, row 2")])
def test_a_ranking_knows_its_place(write, place):
    assert read(write(PAIR, PAIR | {"chosen": " grey."}))[1].place == place


text = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(lambda x: not x.isspace())
ranked = st.lists(text, min_size=2, max_size=5, unique=True).flatmap(
    lambda responses: st.tuples(
        text, st.just(responses), st.lists(st.integers(0, 4), min_size=len(responses), max_size=len(responses))
    )
)


@given(rows=st.lists(ranked, min_size=1, max_size=4), packed=st.booleans(), wide=st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, rows, packed, wide):
    """Ranks are given without gaps; responses of equal rank keep their order, the others are sorted."""
    directory = tmp_path_factory.mktemp("rows")
    written, expected = [], []
    for prompt, responses, values in rows:
        dense = {value: i for i, value in enumerate(sorted(set(values)))}
        ranking = [dense[value] + 1 for value in values]
        written.append({"prompt": prompt, "responses": responses, "ranking": ranking})
        best_first = sorted(zip(ranking, range(len(values)), responses, strict=True))
        ranks = tuple(rank - 1 for rank, _, _ in best_first)
        expected.append(Ranking(prompt, tuple(x for *_, x in best_first), ranks if len(dense) < len(values) else None))
    encoded = "\n".join(json.dumps(row, ensure_ascii=not wide) for row in written).encode()
    (directory / "a.jsonl").write_bytes(gzip.compress(encoded) if packed else encoded)
    assert read(directory / "a.jsonl") == expected
    assert read(table(*written, name=str(directory / "a.parquet"))) == expected


# Bad rows: place, field, what is wrong, what is due


BAD_PAIRS = [
    ({"chosen": ""}, "chosen: is empty; give it words, or remove the row"),
    ({"prompt": " \n"}, "prompt: is empty"),
    ({"rejected": None}, "rejected: is missing; every row needs prompt, chosen, rejected"),
    ({"rejected": " blue."}, "rejected: is the same as chosen; nothing is preferred here"),
]
BAD_MESSAGES = [
    ({"chosen": []}, "chosen: is empty"),
    ({"chosen": [{"role": "assistant", "content": " "}]}, "chosen: is empty"),
    ({"chosen": [ASK, BLUE]}, "chosen: begins with the role 'user'; a response begins with the assistant's turn"),
    ({"rejected": [{"role": "assistant", "content": None}]}, "rejected[0].content: is missing; write {role, content}"),
]
OF_KINDS = [
    ({"chosen": 5}, "chosen: is no text, found 5; write a text, or a list of {role, content}"),
    ({"chosen": {"text": "x"}}, "chosen: is no text, found {'text': 'x'}"),
    ({"chosen": ["a"], "rejected": ["b"]}, "chosen[0]: is no message, found 'a'; write {role, content}"),
    ({"chosen": [BLUE]}, "rejected: is not written like chosen; write both as texts, or both as messages"),
    ({"chosen": [BLUE | {"content": ["x"]}]}, "chosen[0].content: is no text, found ['x']"),
    ({"chosen": [BLUE], "rejected": [GREEN]}, "chosen: shares no beginning with rejected, so there is no prompt"),
    ({"prompt": [ASK]}, "chosen: is not written like prompt; write both as texts, or both as messages"),
    (
        {"chosen": [ASK, BLUE], "rejected": [ASK, GREEN]},
        "prompt: is a text, but none of the messages that chosen and rejected share, found 'The sky is'",
    ),
]  # fmt: skip


@WRITERS
@pytest.mark.parametrize(("change", "says"), BAD_PAIRS)
def test_a_bad_pair_is_named(write, change, says):
    place = "data.jsonl:2" if write is lines else "data.parquet, row 2"
    assert said(write(PAIR, PAIR | change)).startswith(f"{place}: {says}")


@WRITERS
@pytest.mark.parametrize(("change", "says"), BAD_MESSAGES)
def test_a_bad_message_is_named(write, change, says):
    row = {"prompt": [ASK], "chosen": [BLUE], "rejected": [GREEN]}
    place = "data.jsonl:2" if write is lines else "data.parquet, row 2"
    assert said(write(row, row | change)).startswith(f"{place}: {says}")


@pytest.mark.parametrize(("change", "says"), OF_KINDS)
def test_what_is_no_text_is_named(change, says):
    assert said(lines(PAIR, PAIR | change)).startswith(f"data.jsonl:2: {says}")


@pytest.mark.parametrize(
    ("chosen", "rejected", "says"),
    [
        ("blue", "green", "chosen: shares no beginning with rejected, so there is no prompt; give the prompt a column"),
        ([ASK, BLUE], [ASK], "rejected: is empty behind the beginning that both share"),
        ([ASK, BLUE], [ASK, ASK], "rejected: begins with the role 'user'"),
        (f"{DIALOGUE} I see.", f"{DIALOGUE} ", "rejected: is empty behind the beginning that both share"),
        ("The sky:", "The sky: green", "chosen: is empty behind the beginning that both share"),
    ],
)
def test_conversations_without_prompt_or_answer_are_named(chosen, rejected, says):
    assert said(lines({"chosen": chosen, "rejected": rejected})).startswith(f"data.jsonl:1: {says}")


@WRITERS
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"ranking": [1, 2]},
            "ranking: does not fit the responses, found 2 for 3 responses; give each response its rank",
        ),
        ({"ranking": [2, 0, 1]}, "ranking: is below 1, found [2, 0, 1]; give each response its rank: 1 is the best"),
        ({"ranking": [4, 1, 2]}, "ranking: leaves ranks out, found [4, 1, 2]"),
        ({"ranking": [2, 2, 3]}, "ranking: leaves ranks out, found [2, 2, 3]"),
        ({"responses": ["low"], "ranking": [1]}, "responses: cannot be ranked, found only 1; give two or more"),
        ({"responses": [], "ranking": []}, "responses: cannot be ranked, found only 0"),
        ({"responses": ["low", "high", "low"]}, "responses[2]: is the same as one before it; keep one, with its rank"),
        ({"responses": ["low", "", "mid"]}, "responses[1]: is empty"),
    ],
)
def test_a_bad_ranking_is_named(write, change, says):
    place = "data.jsonl:2" if write is lines else "data.parquet, row 2"
    assert said(write(RANKED, RANKED | change)).startswith(f"{place}: {says}")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (RANKED | {"ranking": ["high", "mid", "low"]}, "ranking[0]: is no finite number, found 'high'; give each"),
        (RANKED | {"ranking": "213"}, "ranking: is no list, found '213'"),
        (RANKED | {"responses": "low"}, "responses: is no list, found 'low'"),
        (RANKED | {"responses": ["low", ["mid"], "x"]}, "responses[1][0]: is no message, found 'mid'"),
        (RANKED | {"responses": ["low", [BLUE], "x"]}, "responses[1]: is not written like prompt"),
        (LABELLED | {"label": 1}, "label: is neither true nor false, found 1"),
        (LABELLED | {"label": "yes"}, "label: is neither true nor false, found 'yes'"),
        (LABELLED | {"completion": ""}, "completion: is empty"),
        (PAIR | {"margin": True}, "margin: is no finite number, found True"),
        (PAIR | {"margin": "2"}, "margin: is no finite number, found '2'"),
        (PAIR | {"margin": 10**400}, "margin: is no finite number, found 1000"),
        (json.dumps(PAIR | {"margin": 0.5}).replace("0.5", "NaN"), "margin: is no finite number, found nan"),
        (json.dumps(PAIR | {"margin": 0.5}).replace("0.5", "-Infinity"), "margin: is no finite number, found -inf"),
        (json.dumps(PAIR | {"margin": 0.5}).replace("0.5", "1e999"), "margin: is no finite number, found inf"),
    ],
)
def test_what_is_no_rank_label_or_number_is_named(row, says):
    assert said(lines(row)).startswith(f"data.jsonl:1: {says}")


def test_numbers_stand_in_every_row_or_in_none():
    assert said(lines(PAIR | {"margin": 1}, PAIR)) == (
        "data.jsonl:2: margin: is missing; every row needs prompt, chosen, rejected, margin"
    )
    assert said(lines(PAIR, PAIR | {"margin": 1})) == (
        "data.jsonl:2: margin: is missing in the first row; give it in every row, or in none"
    )
    assert said(lines(PAIR | {"score_chosen": 1})) == (
        "data.jsonl:1: the columns are chosen, prompt, rejected, score_chosen; score_rejected is missing. "
        "Give score_chosen and score_rejected, or none of them."
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{'prompt': 'x'}", "the line is no JSON, found Expecting property name enclosed in double quotes at column 2"),
        (
            "{",
            "the line is no JSON, found Expecting property name enclosed in double quotes at column 2; write one row",
        ),
        ('"text"', 'the line is no JSON object; write {"prompt": ..., ...}'),
        ("3", "the line is no JSON object"),
        (json.dumps(PAIR) * 2, "the line is no JSON, found Extra data at column"),
        ('{"prompt": "a", "prompt": "b"}', "a key stands twice, found 'prompt'; keep one"),
        ('{"prompt": [{"role": "a", "role": "b"}]}', "a key stands twice, found 'role'; keep one"),
        ('{"prompt": "tab\tin text"}', "the line is no JSON, found Invalid control character at column 16"),
        ('{"prompt": "\\ud800"}', "the line has half a surrogate pair, which is no character, found \\ud800"),
        ("[" * 200_000, "the line is no JSON that can be read, found"),
        (f'{{"margin": {"1" * 5000}}}', "the line is no JSON that can be read, found Exceeds the limit"),
    ],
)
def test_a_line_that_is_no_row_is_named(line, says):
    assert said(lines(PAIR, line, PAIR)).startswith(f"data.jsonl:2: {says}")


def test_a_whole_surrogate_pair_is_a_character():
    row = json.dumps(PAIR | {"chosen": "😀"})
    assert "\\ud83d\\ude00" in row
    assert read(lines(row))[0].responses[0] == "😀"


def test_a_last_line_that_is_cut_short_is_named():
    whole = json.dumps(PAIR)
    Path("data.jsonl").write_text(f"{whole}\n{whole}\n{whole[:-9]}", encoding="utf-8")
    assert said("data.jsonl") == "data.jsonl:3: the last line is cut short; the file is not whole; get it once more"
    assert summed("data.jsonl", on_bad_row="skip").used == 2


def test_a_last_line_needs_no_end():
    Path("data.jsonl").write_text(json.dumps(PAIR), encoding="utf-8")
    assert len(read("data.jsonl")) == 1


def test_bytes_that_are_no_utf8_are_named():
    Path("data.jsonl").write_bytes(json.dumps(PAIR | {"chosen": "café"}, ensure_ascii=False).encode("latin-1") + b"\n")
    at = json.dumps(PAIR | {"chosen": "café"}, ensure_ascii=False).index("é") + 1
    found = f"data.jsonl:1: the line is no UTF-8, found b'\\xe9' at byte {at}"
    assert said("data.jsonl") == f"{found}; convert the file, as by: iconv -f LATIN1 -t UTF-8"


def test_a_line_longer_than_memory_allows_is_named_and_stepped_over(monkeypatch):
    monkeypatch.setattr(json_lines, "LONGEST", 200)
    long = PAIR | {"chosen": "x" * 1000}
    lines(PAIR, long, PAIR | {"chosen": "y"})
    summary = summed("data.jsonl", on_bad_row="skip")
    assert (summary.read, summary.used) == (3, 2)
    assert summary.examples == {
        "the line is longer than 0 MiB": ["data.jsonl:2: the line is longer than 0 MiB; write one row a line"]
    }


# What cannot be read at all


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf16_is_refused_with_the_way_out(encoding):
    Path("data.jsonl").write_text(json.dumps(PAIR), encoding=encoding)
    assert said("data.jsonl") == (
        "data.jsonl is UTF-16, and must be UTF-8. Convert it: "
        "iconv -f UTF-16 -t UTF-8 data.jsonl > data-converted.jsonl"
    )


def test_a_byte_order_mark_is_read_and_told():
    Path("data.jsonl").write_text(json.dumps(PAIR), encoding="utf-8-sig")
    assert dict(summed("data.jsonl").notes) == {"data.jsonl begins with a byte-order mark": 1}


def test_cr_lf_and_blank_lines_are_read_and_told():
    row = json.dumps(PAIR).encode()
    Path("data.jsonl").write_bytes(row + b"\r\n\r\n  \r\n" + row + b"\r\n")
    summary = summed("data.jsonl")
    assert summary.used == 2
    assert dict(summary.notes) == {"data.jsonl has lines that end in CR LF": 1, "blank lines": 2}
    assert read("data.jsonl")[1].place == "data.jsonl:4"


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(content):
    Path("data.jsonl").write_text(content, encoding="utf-8")
    assert said("data.jsonl") == f"data.jsonl is empty: there is no row in {len(content)} bytes"
    lines(PAIR, name="full.jsonl")
    assert said(["full.jsonl", "data.jsonl"]).startswith("data.jsonl is empty")


def test_an_empty_parquet_file_is_refused():
    parquet.write_table(pyarrow.table({name: pyarrow.array([], pyarrow.string()) for name in PAIR}), "data.parquet")
    assert said("data.parquet").startswith("data.parquet is empty: there is no row in ")


def test_a_json_array_is_refused_with_the_way_out():
    Path("data.json").write_text(json.dumps([PAIR], indent=1), encoding="utf-8")
    assert said("data.json") == (
        "data.json is a JSON array, and must have one row a line. Convert it: "
        "jq -c '.[]' data.json > data-converted.jsonl"
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04rest", "data.jsonl is a zip archive; unpack it"),
        (b"\x28\xb5\x2f\xfdrest", "data.jsonl is packed by zstd; unpack it, or pack it by gzip"),
        (b"\x80\x04\x95rest", "data.jsonl is a pickle, which could run any code; write it as JSON Lines or Parquet"),
        (
            b"\x7fELF" + b"\x01" * 20 + b"\0" * 3,
            "data.jsonl is no text: it has bytes 0. It must be JSON Lines or Parquet",
        ),
    ],
)
def test_other_kinds_of_files_are_refused_by_name(content, says):
    Path("data.jsonl").write_bytes(content)
    assert said("data.jsonl") == says


def test_gzip_is_told_by_its_bytes_and_a_torn_one_is_refused():
    packed = gzip.compress("".join(json.dumps(PAIR | {"chosen": f" {i}"}) + "\n" for i in range(2000)).encode())
    Path("whole.jsonl").write_bytes(packed)
    assert len(read("whole.jsonl")) == 2000
    Path("torn.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    assert said("torn.jsonl.gz").startswith("cannot read torn.jsonl.gz behind line ")


def test_a_torn_parquet_file_is_refused():
    whole = Path(table(PAIR)).read_bytes()
    Path("torn.parquet").write_bytes(whole[:-20])
    assert said("torn.parquet").startswith("cannot read torn.parquet: ")
    Path("none.parquet").write_bytes(b"{}")
    assert said("none.parquet") == "none.parquet is no Parquet file: it does not begin with PAR1"


def test_a_parquet_file_with_a_spoilt_page_is_refused():
    spoilt = bytearray(Path(table(*[PAIR | {"chosen": f"{i}"} for i in range(500)], compression="zstd")).read_bytes())
    spoilt[30:200] = b"\xff" * 170
    Path("spoilt.parquet").write_bytes(spoilt)
    assert said("spoilt.parquet").startswith("cannot read spoilt.parquet behind row 0: ")


def test_parquet_without_pyarrow_names_the_extra(monkeypatch):
    table(PAIR)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"data.parquet is a Parquet file.*pip install 'rlhf-lab\[data\]'"):
        read("data.parquet")


def test_a_column_that_stands_twice_is_refused():
    column = pyarrow.array(["x"])
    parquet.write_table(pyarrow.Table.from_arrays([column] * 4, [*PAIR, "chosen"]), "data.parquet")
    assert said("data.parquet") == "data.parquet: the column 'chosen' stands twice; keep one"


# Forms


@WRITERS
def test_columns_of_no_form_are_refused_with_the_forms(write):
    path = write({"question": "a", "chosen": "b"})
    place = "data.jsonl:1" if write is lines else "data.parquet"
    assert said(path) == (
        f"{place}: the columns are chosen, question; rename what is meant, since preference data has: "
        "pairs (prompt, chosen, rejected) or implicit_pairs (chosen, rejected) or "
        "rankings (prompt, responses, ranking) or labels (prompt, completion, label)."
    )
    assert said(path, form="pairs").endswith("since preference data has: pairs (prompt, chosen, rejected).")


def test_columns_of_several_forms_need_a_word():
    path = lines(PAIR | LABELLED, PAIR | LABELLED | {"label": False})
    forms = "pairs (prompt, chosen, rejected) or labels (prompt, completion, label)"
    assert said(path).endswith(f"and several forms fit. Say which is meant: {forms}.")
    assert read(path, form="pairs")[0].responses == (" blue.", " green.")
    assert read(path, form="labels")[0].labels == (True,)


def test_a_forced_form_leaves_the_prompt_column_out():
    path = lines({"prompt": "other words", "chosen": [ASK, BLUE], "rejected": [ASK, GREEN]})
    summary = Summary()
    assert read(path, form="implicit_pairs", summary=summary)[0].prompt == (Turn(**ASK),)
    assert summary.unread == ["prompt"]


def test_an_unknown_form_is_refused():
    assert said(lines(PAIR), form="pair") == (
        "no form of preference data is called 'pair'. Did you mean 'pairs'? "
        "Possible: implicit_pairs, labels, pairs, rankings."
    )


def test_the_layout_is_told_from_the_first_row_that_can_be_read():
    assert layout_of(lines("{", PAIR | {"margin": 1})).columns == ("prompt", "chosen", "rejected", "margin")
    assert layout_of(table(RANKED)).form.name == "rankings"
    with pytest.raises(BadRowError, match=r"data\.jsonl:2: the line is no JSON"):
        layout_of(lines("{", "{"))
    with pytest.raises(LabError, match=r"data\.jsonl is empty"):
        layout_of(lines())


# Several files


def test_patterns_and_lists_are_read_in_order():
    lines(PAIR | {"chosen": "2"}, name="b2.jsonl")
    table(PAIR | {"chosen": "1"}, name="b1.parquet")
    lines(PAIR | {"chosen": "0"}, name="z.jsonl")
    assert [row.responses[0] for row in read(["z.jsonl", "b*"])] == ["0", "1", "2"]
    assert [row.responses[0] for row in read(Path("z.jsonl").absolute())] == ["0"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file():
    assert len(read(lines(PAIR, name="a[1].jsonl"))) == 1


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        ("none.jsonl", "there is no file 'none.jsonl' in "),
        ("*.parquet", "no file matches '*.parquet' in "),
        ("/dev/null", "/dev/null is a pipe or a device; write the rows to a file"),
        ("x" * 300, f"cannot read '{'x' * 300}': "),
        ("sub", "sub is a directory; name the files in it, as by sub/*.jsonl"),
        ([], "no file of preference data is named"),
        ("", "no file of preference data is named"),
        (["data.jsonl", "d*.jsonl"], "data.jsonl is named twice; its rows would count twice"),
    ],
)
def test_what_names_no_file_is_refused(paths, says):
    Path("sub").mkdir()
    lines(PAIR)
    assert said(paths).startswith(says)


def test_files_of_different_forms_are_refused():
    table(PAIR)
    table(RANKED, name="other.parquet")
    assert said(["data.parquet", "other.parquet"]) == (
        "other.parquet has the columns of rankings (prompt, responses, ranking), the files before it those of pairs "
        "(prompt, chosen, rejected); read them one by one"
    )
    lines(RANKED)
    assert said(["data.parquet", "data.jsonl"]).startswith("data.jsonl:1: chosen: is missing; every row needs prompt")


# Skipping and counting


def test_skipped_rows_are_counted_by_reason_with_the_first_few():
    bad = [PAIR | {"chosen": ""} for _ in range(5)]
    summary = summed(lines(PAIR, *bad, "{", PAIR | {"rejected": " blue."}), on_bad_row="skip")
    assert (summary.read, summary.used) == (8, 1)
    assert dict(summary.skipped) == {
        "chosen: is empty": 5, "the line is no JSON": 1, "rejected: is the same as chosen": 1,
    }  # fmt: skip
    due = "chosen: is empty; give it words, or remove the row"
    assert summary.examples["chosen: is empty"] == [f"data.jsonl:{i}: {due}" for i in (2, 3, 4)]


def test_reasons_do_not_differ_by_the_number_of_the_item():
    rows = [RANKED | {"responses": ["a", "b", ""]}, RANKED | {"responses": ["", "b", "c"]}]
    assert dict(summed(lines(RANKED, *rows), on_bad_row="skip").skipped) == {"responses[]: is empty": 2}


def test_where_all_rows_are_skipped_nothing_is_left_to_use():
    with pytest.raises(BadDataError, match="no row can be used: all 2 were skipped"):
        read(lines(PAIR | {"chosen": ""}, PAIR | {"chosen": ""}), on_bad_row="skip")


@pytest.mark.parametrize("label", [True, False])
def test_labels_of_one_class_only_are_refused(label):
    rows = [LABELLED | {"completion": f"{i}", "label": label} for i in range(3)]
    with pytest.raises(BadDataError) as stopped:
        read(lines(*rows))
    assert str(stopped.value) == f"label: all 3 are {str(label).lower()}; labels of one class tell nothing apart"
    path = lines(*rows, LABELLED | {"label": not label})
    assert len(read(path)) == 4
    assert said(path, limit=3) == (
        f"label: all 3 are {str(label).lower()} among the first 3 rows; labels of one class tell nothing apart"
    )


def test_the_limit_counts_used_rows_and_stops_reading():
    path = lines(PAIR | {"chosen": ""}, PAIR, PAIR, PAIR, "{")
    summary = summed(path, on_bad_row="skip", limit=2)
    assert (summary.read, summary.used, summary.skipped.total()) == (3, 2, 1)


def test_the_numbers_of_the_summary():
    # prompts of 1, 1, 1, 4 characters: the median is 1. Responses of 1, 2, 1, 2, 2, 1, 1, 3, 10: the fifth is 2
    rows = [
        {"prompt": "p", "responses": ["a", "bb"], "ranking": [1, 2]},
        {"prompt": "p", "responses": ["bb", "a"], "ranking": [2, 1]},  # the same, written the other way round
        {"prompt": "p", "responses": ["a", "bb"], "ranking": [2, 1]},  # the same responses, the other is better
        {"prompt": "long", "responses": ["a", "ccc", "d" * 10], "ranking": [1, 1, 2], "source": "me"},
    ]
    found = summed(lines(*rows)).to_dict()
    assert found | {"files": None} == {
        "files": None,
        "form": "rankings",
        "columns": ["prompt", "responses", "ranking"],
        "columns_not_read": ["source"],
        "rows": {"read": 4, "used": 4, "skipped": 0},
        "skipped": [],
        "notes": {},
        "limit": None,
        "prompt_characters": {"median": 1, "longest": 4},
        "response_characters": {"median": 2, "longest": 10},
        "candidates": {"2": 3, "3": 1},
        "ties": 1,
        "duplicates": 1,
        "disagreeing": 1,
        "labels": None,
        "problem": None,
    }
    assert found["files"] == [{"path": "data.jsonl", "kind": "JSON Lines", "bytes": Path("data.jsonl").stat().st_size}]


def test_a_median_between_two_lengths_is_their_mean():
    rows = [LABELLED | {"completion": "x" * n, "label": n == 1} for n in (1, 2, 4, 9)]
    assert summed(lines(*rows)).to_dict()["response_characters"] == {"median": 3, "longest": 9}


def test_labels_are_counted_by_class():
    rows = [LABELLED, LABELLED | {"label": False}, LABELLED]
    found = summed(table(*rows)).to_dict()
    assert found["labels"] == {"true": 2, "false": 1}
    assert (found["duplicates"], found["disagreeing"]) == (1, 1)  # the third row repeats the first, the second objects


def test_scores_that_do_not_favour_the_chosen_one_are_told():
    rows = [PAIR | {"score_chosen": a, "score_rejected": b} for a, b in ((2, 1), (1, 1), (1, 2))]
    assert dict(summed(lines(*rows)).notes) == {"score_chosen is not above score_rejected": 2}


def test_what_messages_say_beyond_role_and_content_is_told():
    row = {"prompt": [ASK], "chosen": [BLUE | {"name": "Sky"}], "rejected": [GREEN | {"tool_calls": None}]}
    assert dict(summed(lines(row)).notes) == {"a message says more than role and content, which is not read": 1}


def test_columns_of_a_parquet_file_that_are_not_read_are_told():
    assert summed(table(PAIR | {"id": 3, "picture": b"\x89PNG"})).unread == ["id", "picture"]


def test_progress_is_told_in_bytes_over_all_files():
    many = [PAIR | {"chosen": f" {i}"} for i in range(2000)]
    size = Path(lines(*many)).stat().st_size
    other = Path(table(*many)).stat().st_size
    told: list[tuple[int, int]] = []
    read(["data.jsonl", "data.parquet"], watch=lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {size + other}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert 0 < told[0][0] < size < told[-1][0] <= size + other

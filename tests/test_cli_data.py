"""``rlhf-lab data``: the summary, exit codes, and errors in words."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_lab import cli_data

PAIR = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}


def written(*rows: object, name: str = "data.jsonl") -> str:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    Path(name).write_text(text, encoding="utf-8")
    return name


def test_good_files_exit_with_0_and_a_summary(command):
    code, out, err = command("data", written(PAIR, PAIR | {"chosen": " grey.", "id": 1}))
    assert (code, err) == (0, "")
    size = Path("data.jsonl").stat().st_size
    assert [line.rstrip() for line in out.splitlines()] == [
        f"files       data.jsonl (JSON Lines, {size} bytes)",
        "form        pairs: prompt, chosen, rejected",
        "not read    id",
        "rows        2 read, 2 used, 0 skipped",
        "prompt      median 10 characters, longest 10",
        "response    median 6.5 characters, longest 7",  # 6, 7, 6, 7
        "candidates  2 rows with 2",
        "ties        0 rows",
        "duplicates  0 rows repeat another, 0 judge the same otherwise",
    ]


def test_what_a_ranking_means_is_told(command):
    row = {"prompt": "1", "responses": ["a", "b", "c"], "ranking": [1, 1, 2]}
    code, out, _ = command("data", written(row, row | {"ranking": [2, 1, 1]}))
    assert code == 0
    lines = [line.rstrip() for line in out.splitlines()]
    assert "            ranking: the rank of each response, 1 = best, equal = tie" in lines
    assert lines[-2:] == ["ties        2 rows", "duplicates  0 rows repeat another, 1 judge the same otherwise"]


def test_a_bad_row_exits_with_1_and_its_place(command):
    code, out, err = command("data", written(PAIR, PAIR | {"chosen": ""}, PAIR))
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "rlhf-lab: data.jsonl:2: chosen: is empty; give it words, or remove the row",
        "The rows before it are good: 1. --on-bad-row skip reads on and counts.",
    ]


def test_skipped_rows_exit_with_1_and_are_counted(command):
    code, out, err = command("data", written(PAIR, PAIR | {"chosen": ""}, PAIR), "--on-bad-row", "skip")
    assert (code, err) == (1, "")
    words = " ".join(out.split())
    assert (
        "rows 3 read, 2 used, 1 skipped skipped 1 x chosen: is empty data.jsonl:2: chosen: is empty; give it" in words
    )


def test_labels_of_one_class_exit_with_1_behind_the_summary(command):
    code, out, err = command("data", written({"prompt": "1", "completion": "a", "label": True}))
    assert code == 1
    assert "labels      1 true, 0 false" in out
    assert err == "rlhf-lab: label: all 1 are true; labels of one class tell nothing apart\n"


def test_json_is_the_summary_whatever_is_found(command):
    code, out, err = command("data", written(PAIR, "{"), "--json")
    assert code == 1
    found = json.loads(out)
    assert found["rows"] == {"read": 2, "used": 1, "skipped": 0}
    assert found["problem"].startswith("data.jsonl:2: the line is no JSON")
    assert err == f"rlhf-lab: {found['problem']}\n"
    code, out, _ = command("data", "data.jsonl", "--json", "--on-bad-row", "skip")
    assert code == 1
    assert json.loads(out)["rows"] == {"read": 2, "used": 1, "skipped": 1}
    assert json.loads(out)["problem"] is None
    code, out, _ = command("data", "data.jsonl", "--json", "--limit", "1")
    assert code == 0
    assert json.loads(out)["limit"] == 1


def test_the_limit_is_told_where_it_stopped_reading(command):
    _, out, _ = command("data", written(PAIR, PAIR, PAIR), "--limit", "2")
    assert "reading stopped at the limit of 2" in out
    _, out, _ = command("data", "data.jsonl", "--limit", "4")
    assert "reading stopped" not in out


def test_a_form_can_be_forced(command):
    row = PAIR | {"completion": " blue.", "label": True}
    code, out, _ = command("data", written(row, row | {"label": False}), "--form", "labels")
    assert code == 0
    assert "form        labels: prompt, completion, label" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.jsonl"], "rlhf-lab: there is no file 'none.jsonl' in "),
        (["*.none"], "rlhf-lab: no file matches '*.none' in "),
        (["."], "rlhf-lab: . is a directory; name the files in it, as by *.jsonl"),
        (["empty.jsonl"], "rlhf-lab: empty.jsonl is empty: there is no row in 0 bytes"),
        (["wide.jsonl"], "rlhf-lab: wide.jsonl is UTF-16, and must be UTF-8. Convert it: iconv"),
        (["torn.jsonl.gz"], "rlhf-lab: cannot read torn.jsonl.gz"),
        (
            ["data.jsonl", "--form", "pair"],
            "rlhf-lab: no form of preference data is called 'pair'. Did you mean 'pairs'?",
        ),
        (
            ["data.jsonl", "--form", "labels"],
            "rlhf-lab: data.jsonl:1: the columns are chosen, prompt, rejected; rename",
        ),
        (["data.jsonl", "--limit", "0"], "rlhf-lab: Invalid value for '--limit'"),
        (["data.jsonl", "--on-bad-row", "go"], "rlhf-lab: Invalid value for '--on-bad-row'"),
        (["data.jsonl", "--plugin", "none.py"], "rlhf-lab: plugin none.py did not load: there is no such file"),
        ([], "rlhf-lab: Missing argument 'FILE'"),
    ],
)
def test_what_cannot_be_read_exits_with_2(command, arguments, says):
    written(PAIR)
    written(name="empty.jsonl")
    Path("wide.jsonl").write_text(json.dumps(PAIR), encoding="utf-16")
    Path("torn.jsonl.gz").write_bytes(gzip.compress(b"{}" * 1000)[:-12])
    code, out, err = command("data", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(says)


def test_somebody_who_watches_sees_how_much_is_read(command, monkeypatch):
    monkeypatch.setattr(cli_data, "PATIENCE", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    path = written(*[PAIR | {"chosen": f" {i}"} for i in range(2000)])
    code, out, err = command("data", path)
    assert code == 0
    assert "reading" in err
    assert "kB" in err
    assert "reading" not in out


def test_nothing_heavy_is_imported_to_check_a_file(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(PAIR), encoding="utf-8")
    code = (
        "import sys, rlhf_lab.cli; sys.argv[1:] = ['data', sys.argv[1], '--json']\n"
        "try: rlhf_lab.cli.main()\n"
        "finally: print('imported', *sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    modules = answer.stdout.rpartition("imported")[2].split()
    assert not {"torch", "pandas", "matplotlib", "numba", "pyarrow"} & set(modules)

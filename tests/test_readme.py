"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest
import torch
import yaml

import rlhf_lab
from rlhf_lab.registry import load_plugins
from rlhf_lab.study.api import find_study, make_study
from rlhf_lab.study.edit import edit_study
from rlhf_lab.types import Trajectories

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def plugin(tmp_path):
    code = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    path = tmp_path / "one_step.py"
    path.write_text(code, encoding="utf-8")
    assert len([line for line in code.splitlines() if line.strip()]) <= 18  # fifteen lines and the imports
    return path


def test_the_plugin_computes_the_one_step_error(plugin):
    one_step = load_plugins([str(plugin)]).create("advantage", {"name": "one_step", "gamma": 0.5})
    no = torch.tensor([False, False])
    batch = Trajectories(
        torch.tensor([1.0, 2.0]),
        torch.tensor([False, True]),
        no,
        ~no,
        values=torch.tensor([3.0, 4.0]),
        next_values=torch.tensor([4.0, torch.nan]),
    )
    # 1 + 0.5 * 4 - 3 = 0; terminated: 2 - 4 = -2
    assert one_step(batch).advantages.tolist() == [0.0, -2.0]


def test_the_plugin_takes_part_in_a_shipped_study_without_yaml(plugin):
    registry = load_plugins([str(plugin)])
    _, data, where = find_study("first-look", registry)
    data["arms"] = {"gae reinforce": data["arms"]["gae reinforce"]}
    edited = edit_study(data, registry, arms=["one_step"], settings=["budget.steps=512", "exact.horizon=4"], seeds=2)
    edited |= {"conclusions": [], "figures": []}
    results = rlhf_lab.compare(make_study(edited, where), registry=registry)
    assert [arm.name for arm in results.arms] == ["gae reinforce", "one_step"]
    assert results.arm("one_step").spec["advantage"] == {"name": "one_step", "gamma": 1.0}  # the study's one gamma


def test_every_folder_of_the_map_exists():
    folders = re.findall(r"^\| `([a-z_/]+/)` \|", README, re.M)
    assert len(folders) >= 8
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


def test_every_named_study_stands_in_the_table():
    names = set(load_plugins().studies)
    assert {name for name in names if f"`{name}`" not in README} == set()


def test_the_picture_of_the_report_is_there():
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)


def test_the_chain_runs_from_end_to_end():
    spec = yaml.safe_load(re.search(r"```yaml\n(.*?)```", README, re.S).group(1))
    for stage in spec["stages"].values():
        stage["budget"] = {"iterations": 2}
    results = rlhf_lab.run(spec)
    assert results.names == ["sft", "reward model", "ppo"]
    assert "reward.logits" in results.arm("reward model").weights


def test_the_records_of_a_rook_ending_are_studied():
    data = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", README, re.S)[1])
    data["spec"] |= {"budget": {"iterations": 2}}
    data["spec"]["data"] |= {"rows": 64}
    results = rlhf_lab.compare(data | {"seeds": 2})
    assert "probability_of_checkmate" in results.arms[0].curves
    assert results.arms[0].exhibits


def test_the_gymnasium_environments_of_chess_are_made_and_stepped(capsys):
    code = re.findall(r"```python\n(.*?)```", README, re.S)[1]
    found = {}
    exec(code, found)
    assert capsys.readouterr().out.count("\n") == 10  # eight ranks, the files' names, who is to move
    assert found["observation"].shape == (18, 8, 8)
    assert found["envs"].num_envs == 1024

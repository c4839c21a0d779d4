"""The command line: what it prints; bad input gets a clear message and exit code 2, never a traceback."""

import json
import sys
from pathlib import Path

import pytest

from rlhf_lab.cli import main

STUDY = """\
title: tiny
spec:
  environment: {name: random_walk, states: 3}
  policy: {name: tabular_softmax, critic: true}
  trainer: {name: online, envs: 2, steps: 8}
  advantage: gae
  objective: reinforce
  value: mse
  optimizer: {name: sgd, lr: 0.1}
  gamma: 0.9
  budget: {iterations: 4}
arms:
  a: {}
  b: {advantage: td}
seeds: 3
scores:
  last: {metric: exact_return}
"""
PLUGIN = """\
from rlhf_lab import hookimpl
from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Advantages

class Mine(AdvantageEstimator):
    '''Rewards as advantages.'''
    name = "mine"
    scale: float = 1.0
    def __call__(self, batch):
        a = (self.scale * batch.rewards).masked_fill(~batch.valid, 0)
        return Advantages(a, a)

@hookimpl
def rlhf_lab_components():
    return [Mine]
"""


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command in an empty folder and gives exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(STUDY, encoding="utf-8")
    Path("mine.py").write_text(PLUGIN, encoding="utf-8")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rlhf-lab", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def test_list_shows_roles_names_and_origin(lab):
    code, out, _ = lab("list", "advantage", "--json")
    names = {entry["name"] for entry in json.loads(out)["components"]}
    assert code == 0
    assert {"gae", "n_step", "rloo", "v_trace"} <= names


def test_list_prints_a_table(lab):
    code, out, _ = lab("list", "kl")
    assert code == 0
    assert "k3" in out


def test_list_of_an_unknown_role_names_the_roles(lab):
    code, _, err = lab("list", "advantages")
    assert code == 2
    assert "Roles: advantage" in err


def test_list_broken_says_why(lab):
    Path("bad.py").write_text("import nothing_like_this", encoding="utf-8")
    code, _, err = lab("list", "--plugin", "bad.py")
    assert code == 2
    assert "bad.py did not load: ModuleNotFoundError" in err


def test_show_prints_parameters_and_source(lab):
    code, out, _ = lab("show", "gae")
    assert code == 0
    assert "lam" in out
    assert "Schulman" in out


def test_show_json_has_bounds(lab):
    _, out, _ = lab("show", "gae", "--json")
    lam = next(p for p in json.loads(out)["parameters"] if p["name"] == "lam")
    assert lam["default"] == 0.95
    assert lam["bounds"] == "≥ 0 ≤ 1"


def test_show_of_an_unknown_name_suggests(lab):
    code, _, err = lab("show", "gea")
    assert code == 2
    assert "Did you mean 'gae'?" in err


def test_compare_writes_the_report_and_names_it(lab):
    code, out, _ = lab("compare", "study.yaml")
    assert code == 0
    assert out.strip().endswith("report: runs/study/report.html")
    assert {p.name for p in Path("runs/study").iterdir()} >= {"report.html", "results.json", "scores.csv", "curves.csv"}


def test_compare_takes_somebodys_estimator_without_yaml(lab):
    code, out, _ = lab("compare", "study.yaml", "--plugin", "mine.py", "--arm", "mine,scale=0.5", "--out", "out")
    assert code == 0
    assert "mine,scale=0.5" in out


def test_compare_prints_yaml_that_is_the_study(lab):
    code, out, _ = lab("compare", "study.yaml", "--set", "trainer.envs=5", "--seeds", "2", "--print")
    assert code == 0
    assert out.startswith("# yaml-language-server: $schema=")
    assert "envs: 5" in out
    assert "seeds: 2" in out


def test_report_is_rebuilt_from_the_directory(lab):
    lab("compare", "study.yaml", "--out", "out")
    before = Path("out/report.html").read_bytes()
    Path("out/report.html").unlink()
    code, _, _ = lab("report", "out")
    assert code == 0
    assert Path("out/report.html").read_bytes() == before


def test_run_trains_one_spec(lab):
    spec = STUDY.split("arms:")[0].split("spec:\n")[1].replace("\n  ", "\n").removeprefix("  ")
    Path("one.yaml").write_text(spec, encoding="utf-8")
    code, out, _ = lab("run", "one.yaml", "--set", "budget.iterations=2")
    assert code == 0
    assert "report: runs/one/report.html" in out


def test_run_chains_stages(lab):
    spec = STUDY.split("arms:")[0].split("spec:\n")[1].replace("\n  ", "\n").removeprefix("  ")
    stages = "stages:\n  critic: {objective: null, trainer: {name: prediction, window: 3}}\n  policy: {}\n"
    Path("chain.yaml").write_text(spec + stages, encoding="utf-8")
    code, out, _ = lab("run", "chain.yaml")
    assert code == 0
    assert "critic" in out


def test_schema_names_every_component(lab):
    code, out, _ = lab("schema", "run")
    schema = json.loads(out)
    assert code == 0
    assert "gae" in schema["$defs"]["advantage"]["anyOf"][0]["enum"]
    assert schema["$defs"]["advantage.gae"]["properties"]["lam"]["maximum"] == 1


def test_studies_are_listed(lab):
    code, out, _ = lab("studies", "--json")
    assert code == 0
    assert {s["name"] for s in json.loads(out)} >= {"first-look", "bias-variance", "first-update", "gradient-bandit"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("title: tiny", "title: [tiny"), "no YAML"),
        (("title: tiny", "title: tiny\nsead: 3"), "study.yaml:2:1: sead: is no parameter here. Did you mean 'seeds'?"),
        (("  gamma: 0.9", "  gamma: 1.5"), "study.yaml:10:3: gamma: Input should be less than or equal to 1"),
        (("  gamma: 0.9", "  gamma: much"), "study.yaml:10:3: gamma: Input should be a valid number"),
        (("advantage: gae", "advantage: gea"), "study.yaml:6:3: advantage: no advantage is called 'gea'"),
        (("advantage: gae", "advantage: {name: gae, lam: 2}"), "study.yaml:6:26: advantage.lam: Input should be less"),
        (("advantage: gae", "advantage: {name: gae, lmd: 2}"), "advantage.lmd: is no parameter here"),
        (("  value: mse", "  value: mse\n  kl: k1\n  gamma: 1"), "the key 'gamma' stands twice"),
        (("critic: true", "critic: false"), "needs values"),
        (("optimizer: {name: sgd, lr: 0.1}", "objective: ppo_clip"), "the key 'objective' stands twice"),
        (("  value: mse\n", ""), ""),  # allowed: warns in the report that nothing trains the critic
        (("  objective: reinforce\n", ""), "trainer 'online' needs one; add `objective: NAME`"),
        (("trainer: {name: online, envs: 2, steps: 8}", "trainer: {name: prediction, window: 2}"), "does not use it"),
        (("budget: {iterations: 4}", "budget: {iterations: 4, steps: 2}"), "give exactly one of iterations, steps"),
        (("seeds: 3", "seeds: 0"), "seeds"),
        (("seeds: 3", "seeds: [1, 1]"), "must name each seed once"),
        (("metric: exact_return", "metric: exact_retrun"), "Did you mean 'exact_return'?"),
        (("title: tiny", "title: tiny\nmeasure: [lerning_curve]"), "'lerning_curve' is unknown"),
    ],
)  # fmt: skip
def test_a_bad_study_is_refused_with_its_place(lab, change, says):
    assert change[0] in STUDY
    Path("study.yaml").write_text(STUDY.replace(*change), encoding="utf-8")
    code, _, err = lab("compare", "study.yaml")
    assert code == (2 if says else 0)
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare", "frist-look"], "Did you mean 'first-look'?"),
        (["compare", "none.yaml"], "cannot read none.yaml"),
        (["compare", "study.yaml", "--arm", "gae,lam"], "expected PATH=VALUE"),
        (["compare", "study.yaml", "--arm", "geo"], "no component is called 'geo'"),
        (["compare", "study.yaml", "--arm", "gae,lam=7"], "arm 'gae,lam=7'"),
        (["compare", "study.yaml", "--set", "trainer.nvs=7"], "trainer.nvs: is no parameter here"),
        (["compare", "random-walk", "--set", "advantage.gamma=0.5"], "changes nothing, because every arm has its own"),
        (["compare", "study.yaml", "--plugin", "none.py"], "none.py did not load: there is no such file"),
        (["compare", "study.yaml", "--seeds", "0"], "--seeds"),
        (["compare", "study.yaml", "--out", "study.yaml/below"], "cannot write in study.yaml/below"),
        (["report", "nowhere"], "is no run directory"),
        (["nonsense"], "No such command"),
        (["show"], "Missing argument"),
    ],
)
def test_a_bad_command_is_refused_in_words(lab, arguments, says):
    code, _, err = lab(*arguments)
    assert code == 2
    assert says in err


def test_a_directory_that_holds_another_study_is_refused(lab):
    lab("compare", "study.yaml", "--out", "out")
    code, _, err = lab("compare", "study.yaml", "--set", "trainer.envs=3", "--out", "out")
    assert code == 2
    assert "holds another study (study.spec.trainer.envs differs)" in err


def test_a_plugin_that_returns_a_broken_tensor_is_named(lab):
    Path("mine.py").write_text(PLUGIN.replace("Advantages(a, a)", "Advantages(a / 0, a)"), encoding="utf-8")
    code, _, err = lab("compare", "study.yaml", "--plugin", "mine.py", "--arm", "mine")
    assert code == 2
    assert "arm 'mine'" in err
    assert "Advantages.advantages" in err


def test_a_plugin_that_raises_is_named_and_finished_arms_are_kept(lab):
    Path("mine.py").write_text(PLUGIN.replace("self.scale * batch", "1 / 0 * batch"), encoding="utf-8")
    code, _, err = lab("compare", "study.yaml", "--plugin", "mine.py", "--arm", "mine", "--out", "out")
    assert code == 2
    assert "arm 'mine': advantage 'mine' raised ZeroDivisionError: division by zero (mine.py:10)" in err
    assert {p.name for p in Path("out/arms").glob("*.safetensors")} == {"a.safetensors", "b.safetensors"}


def test_an_interrupt_is_told_in_words_and_finished_arms_are_kept(lab):
    Path("mine.py").write_text(PLUGIN.replace("a = (self", "raise KeyboardInterrupt; a = (self"), encoding="utf-8")
    code, _, err = lab("compare", "study.yaml", "--plugin", "mine.py", "--arm", "mine", "--out", "out")
    assert code == 130
    assert "the same command goes on from there" in err
    assert {p.name for p in Path("out/arms").glob("*.safetensors")} == {"a.safetensors", "b.safetensors"}


def test_an_observer_that_raises_is_named(lab):
    observer = "\n@hookimpl\ndef rlhf_lab_run_step(arm):\n    raise RuntimeError('the tracker is away')\n"
    Path("mine.py").write_text(PLUGIN + observer, encoding="utf-8")
    code, _, err = lab("compare", "study.yaml", "--plugin", "mine.py")
    assert code == 2
    assert "an observer raised RuntimeError: the tracker is away (mine.py:19)" in err

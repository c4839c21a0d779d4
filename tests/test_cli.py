"""The command line: what it prints; bad input gets a clear message and exit code 2, never a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
def lab(command):
    """Return the command, run in a folder with a study and a plugin."""
    Path("study.yaml").write_text(STUDY, encoding="utf-8")
    Path("mine.py").write_text(PLUGIN, encoding="utf-8")
    return command


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


def test_list_broken_tells_of_a_name_that_two_plugins_claim(lab):
    Path("dup.py").write_text(PLUGIN.replace('"mine"', '"gae"'), encoding="utf-8")
    code, out, _ = lab("list", "advantage", "--broken", "--plugin", "dup.py")
    assert code == 0
    assert "ambiguous: advantage 'gae': " in out
    assert "dup.py" in out


def test_help_imports_nothing_heavy():
    # a fresh interpreter, because this one has imported all of it
    code = """
import atexit, sys
from rlhf_lab.cli import main
heavy = {"torch", "numpy", "pydantic", "rich", "yaml"}
atexit.register(lambda: print("loaded:", heavy & {*sys.modules}))
sys.argv = ["rlhf-lab", "--help"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "compare" in done.stdout
    assert done.stdout.endswith("loaded: set()\n")


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


def test_report_takes_a_plugin_like_every_command(lab):
    lab("compare", "study.yaml", "--out", "out")
    code, _, _ = lab("report", "out", "--plugin", "mine.py")
    assert code == 0


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


@pytest.mark.parametrize(
    ("stages", "settings", "says"),
    [
        ("[a, b]", [], "chain.yaml:10:1: stages: expected {name: overrides, ...}, found ['a', 'b']"),
        ("{}", [], "chain.yaml:10:1: stages: expected {name: overrides, ...}, found {}"),
        ("{a: 5}", [], "chain.yaml:10:10: stages.a: expected a mapping of overrides, found 5"),
        ("{a: {}}", ["--set", "stages.a=5"], "--set stages.a=5: stages.a: expected a mapping of overrides, found 5"),
    ],
)
def test_stages_that_are_none_are_refused_as_stages(lab, stages, settings, says):
    spec = STUDY.split("arms:")[0].split("spec:\n")[1].replace("\n  ", "\n").removeprefix("  ")
    Path("chain.yaml").write_text(f"{spec}stages: {stages}\n", encoding="utf-8")
    assert lab("run", "chain.yaml", *settings) == (2, "", f"rlhf-lab: {says}\n")


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
        (("title: tiny", "title: 2001-99-99"), "study.yaml:1:8: no YAML: this is no timestamp: month must be in 1..12"),
        (("  gamma: 0.9", "  gamma: &a [*a]"), "study.yaml:10:14: no YAML: an alias of what it stands in"),
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
        (["compare", "study.yaml", "--arm", "gae,lam=7"], "\n--arm gae,lam=7: advantage.lam: Input should be less"),
        (["compare", "study.yaml", "--set", "trainer.nvs=7"], "\n--set trainer.nvs=7: trainer.nvs: is no parameter"),
        (["compare", "study.yaml", "--set", "advantage.name=gea"], "\n--set advantage.name=gea: advantage: no adv"),
        (
            ["compare", "study.yaml", "--set", "advantage={name: gae, lam: 7}"],
            "lam: 7}: advantage.lam: Input should be",
        ),
        (["compare", "study.yaml", "--set", "seeds=0"], "rlhf-lab: --set seeds=0: seeds: expected how many"),
        (["compare", "study.yaml", "--set", "spec=&a {x: *a}"], "no YAML value: an alias of what it stands in"),
        (["compare", "random-walk", "--set", "advantage.gamma=0.5"], "changes nothing, because every arm has its own"),
        (["compare", "study.yaml", "--plugin", "none.py"], "none.py did not load: there is no such file"),
        (["compare", "study.yaml", "--seeds", "0"], "--seeds"),
        (["compare", "study.yaml", "--seeds", "100001"], "rlhf-lab: --seeds 100001: seeds: expected how many"),
        (["run", "study.yaml", "--seed", "5000000000"], "'--seed': Input should be less than or equal to 4294967295"),
        (["compare", "study.yaml", "--out", "study.yaml/below"], "cannot write in study.yaml/below"),
        (["report", "nowhere"], "is no run directory"),
        (["report", "nowhere", "--plugin", "none.py"], "none.py did not load: there is no such file"),
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

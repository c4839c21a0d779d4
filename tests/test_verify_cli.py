"""``rlhf-lab verify`` and what ``show`` remembers of it: verdicts, exit codes, formats, and errors in words."""

import json
import re
from pathlib import Path

import pytest

from rlhf_lab import cli_options

HEAD = """\
from pydantic import Field
from rlhf_lab import hookimpl
from rlhf_lab.components import AdvantageEstimator, KLEstimator
from rlhf_lab.types import Advantages, clean

"""
SOUND = """\
class Sound(KLEstimator):
    name = "sound"
    implements = "k1"
    claims = frozenset({"unbiased-value"})
    def __call__(self, log_probs, ref_log_probs, *, old_log_probs=None):
        k1 = log_probs - ref_log_probs.detach()
        return k1 if old_log_probs is None else (log_probs - old_log_probs.detach()).exp() * k1

"""
WRONG = """\
class Wrong(AdvantageEstimator):
    '''Asks the critic what follows a termination.'''
    name = "wrong"
    requires = frozenset({"values", "next_values"})
    gamma: float = Field(default=0.5, ge=0, le=1)
    def __call__(self, batch):
        v = clean(batch.values, batch.valid)
        a = clean(batch.rewards + self.gamma * batch.next_values, batch.valid) - v
        return Advantages(a, a + v)

"""
HOOK = """\
@hookimpl
def rlhf_lab_components():
    return [{}]
"""
ONE = ("--examples", "10")
FEW = ("--examples", "1", "--only", "is-k1", "--only", "unbiased-value")


@pytest.fixture
def lab(command):
    """Return the command, run in a folder with a sound and a wrong component."""
    Path("mine.py").write_text(HEAD + SOUND + WRONG + HOOK.format("Sound, Wrong"), encoding="utf-8")
    return command


def test_a_sound_component_exits_with_0_and_one_line_a_verdict(lab):
    code, out, err = lab("verify", "sound", "--plugin", "mine.py", *ONE)
    assert (code, err) == (0, "")
    assert out.startswith("sound  (kl)  mine.py:6\n")
    assert re.search(r"^  pass  is-k1 +10 cases  \d+\.\d s$", out, re.MULTILINE)
    assert re.search(r"^  skip  parameters-matter +it has no hyper-parameters$", out, re.MULTILINE)
    assert re.search(r"^        loss-gradient +not claimed; the expected gradient is 0", out, re.MULTILINE)
    assert re.search(r"^        not claimed: .*non-negative", out, re.MULTILINE)
    assert re.search(r"^\d+ passed, \d+ not claimed, \d+ skipped$", out.splitlines()[-1])


def test_a_broken_law_is_shown_with_its_smallest_case(lab):
    code, out, _ = lab("verify", "wrong", "--plugin", "mine.py", *ONE)
    failed = out[out.index("  FAIL  bootstraps-on-truncation-only") :].splitlines()
    assert code == 1
    assert failed[1] == "        statement   a terminated step uses no next value; a truncated step does"
    assert failed[2] == "        source      Pardo et al. 2018"
    assert failed[3] == "        smallest    rewards=[0] terminated=[True] values=[0] next_values=[0]  gamma=1"
    assert failed[4].startswith("        got         A[0] = 8 ")
    assert "expected   A[0] = 0" in failed[4]
    assert failed[5] == (
        "        again       rlhf-lab verify wrong --plugin mine.py --examples 10 --only bootstraps-on-truncation-only"
    )
    assert re.fullmatch(r"\d failed, \d+ passed, \d+ not claimed, \d+ skipped", out.splitlines()[-1])


def test_only_keeps_what_was_asked_for(lab):
    code, out, _ = lab("verify", "wrong", "--plugin", "mine.py", "--only", "repeatable", "--only", "runs-apart", *ONE)
    assert code == 0
    assert out.splitlines()[-1] == "2 passed"


def test_json_has_the_shape_for_programs(lab):
    code, out, _ = lab("verify", "wrong", "--plugin", "mine.py", "--json", "--seed", "1", *ONE)
    found = json.loads(out)
    assert code == 1
    assert {key: found[key] for key in ("component", "role", "source")} == {
        "component": "wrong", "role": "advantage", "source": "mine.py:14",
    }  # fmt: skip
    verdicts = {verdict["property"]: verdict for verdict in found["verdicts"]}
    assert set(verdicts["repeatable"]) == {"property", "status", "message", "counterexample", "examples", "seconds"}
    assert {verdict["status"] for verdict in verdicts.values()} == {"passed", "failed", "not_claimed", "skipped"}
    example = verdicts["bootstraps-on-truncation-only"]["counterexample"]
    assert set(example) == {"parameters", "inputs", "got", "expected"}
    assert example["inputs"]["terminated"] == [True]
    assert set(example["parameters"]) == {"gamma"}


def test_several_components_give_a_list(lab, monkeypatch):
    monkeypatch.setenv("RLHF_LAB_PLUGINS", "bandit")
    code, out, _ = lab("verify", "--all", "--plugin", "mine.py", "--json", "--only", "is-k1", *ONE)
    assert code == 0
    assert [entry["component"] for entry in json.loads(out)] == ["sound"]  # the other one has no such property


def test_a_component_that_cannot_be_verified_is_told_and_the_others_go_on(lab, monkeypatch):
    monkeypatch.setenv("RLHF_LAB_PLUGINS", "bandit")
    claims = (
        SOUND.replace('name = "sound"', 'name = "odd"').replace("Sound", "Odd").replace("unbiased-value", "nonsense")
    )
    Path("mine.py").write_text(HEAD + SOUND + claims + HOOK.format("Sound, Odd"), encoding="utf-8")
    code, out, err = lab("verify", "kl", "--plugin", "mine.py", "--only", "is-k1", *ONE)
    assert code == 2
    assert "rlhf-lab: kl/odd could not be verified: kl 'odd' claims 'nonsense'. Possible: " in err
    assert out.splitlines()[0] == "sound  (kl)  mine.py:6"
    assert out.splitlines()[-1] == "1 component: 1 hold, 0 failed, 1 not verified"


def test_a_role_is_meant_where_only_a_trainer_bears_its_name(lab, monkeypatch):
    monkeypatch.setenv("RLHF_LAB_PLUGINS", "preference,trainers")
    code, out, _ = lab("verify", "reward_model", "--only", "is-bradley-terry", "--only", "is-thurstone", *ONE)
    assert code == 0
    assert out.splitlines()[-1] == "2 components: 2 hold, 0 failed"


def test_all_tells_of_plugins_and_names_that_are_not_served(lab, monkeypatch):
    monkeypatch.setenv("RLHF_LAB_PLUGINS", "bandit")
    Path("bad.py").write_text("import nothing_like_this", encoding="utf-8")
    Path("dup.py").write_text(HEAD + WRONG + HOOK.format("Wrong"), encoding="utf-8")
    plugins = ("--plugin", "mine.py", "--plugin", "bad.py", "--plugin", "dup.py")
    code, out, err = lab("verify", "--all", *plugins, *ONE)
    assert code == 2
    assert "plugin bad.py did not load: ModuleNotFoundError" in err
    assert "advantage 'wrong' is ambiguous and not verified: mine.py (" in err
    assert out.splitlines()[-1] == "1 component: 1 hold, 0 failed, 2 not verified"


def test_all_exits_with_1_where_a_law_fails(lab, monkeypatch):
    monkeypatch.setenv("RLHF_LAB_PLUGINS", "bandit")
    code, out, _ = lab("verify", "--all", "--plugin", "mine.py", *ONE)
    assert code == 1
    assert "  FAIL  bootstraps-on-truncation-only" in out
    assert "  pass  " not in out
    assert out.splitlines()[-1] == "2 components: 1 hold, 1 failed"


def test_the_badge_is_one_line_of_markdown(lab):
    code, out, _ = lab("verify", "wrong", "--plugin", "mine.py", "--badge", "--only", "repeatable", *ONE)
    assert code == 0
    assert out == (
        "![rlhf-lab verify wrong: 1 passed](https://img.shields.io/badge/rlhf--lab_verify_wrong-1_passed-brightgreen)\n"
    )
    code, out, _ = lab("verify", "wrong", "--plugin", "mine.py", "--badge", *ONE)
    assert code == 1
    assert out.endswith("-red)\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["verify"], "verify takes one of: the NAME of a component, a ROLE, --all, --function"),
        (["verify", "gae", "--all"], "verify takes one of"),
        (["verify", "gae", "--json", "--badge"], "--json and --badge exclude each other"),
        (["verify", "gae", "--as", "gae"], "--as, --map and --layout describe a --function"),
        (["verify", "gea"], "no component is called 'gea'. Did you mean 'gae'?"),
        (["verify", "advantages"], "Roles that do math: advantage, normalizer"),
        (["verify", "advantage/gea"], "no advantage is called 'gea'. Did you mean 'gae'?"),
        (["verify", "nothing/gae"], "no nothing is called 'gae'"),
        (["verify", "environment"], "role 'environment' does no math that could be verified. Possible: advantage"),
        (["verify", "bandit"], "role 'environment' does no math that could be verified"),
        (["verify", "gae", "--only", "future"], "no property of 'gae' is called 'future'. Did you mean 'future-only'?"),
        (["verify", "kl", "--only", "future"], "no property is called 'future'"),
        (["verify", "gae", "--examples", "0"], "'--examples': Input should be greater than or equal to 1"),
        (["verify", "gae", "--plugin", "none.py"], "plugin none.py did not load: there is no such file in"),
        (["verify", "kl", "--plugin", "kl.py"], "'kl' is a role and a component; say kl/ for all of the role"),
        (["verify", "gae", "--plugin", "dup.py"], "advantage 'gae' is ambiguous"),
        (["verify", "both", "--plugin", "both.py"], "say advantage/both or kl/both"),
        (["verify", "--function", "fn.py:f"], "--function needs --as NAME"),
    ],
)
def test_what_cannot_be_verified_is_refused_in_words(lab, arguments, says):
    Path("kl.py").write_text(HEAD + WRONG.replace('"wrong"', '"kl"') + HOOK.format("Wrong"), encoding="utf-8")
    Path("dup.py").write_text(HEAD + WRONG.replace('"wrong"', '"gae"') + HOOK.format("Wrong"), encoding="utf-8")
    both = HEAD + WRONG.replace('"wrong"', '"both"') + SOUND.replace('"sound"', '"both"')
    Path("both.py").write_text(both + HOOK.format("Wrong, Sound"), encoding="utf-8")
    code, out, err = lab(*arguments)
    assert (code, out) == (2, "")
    assert says in err


def test_show_tells_which_claims_were_verified(lab):
    options = ("--plugin", "mine.py")
    _, out, _ = lab("show", "sound", *options)
    assert "unbiased-value  not verified yet: rlhf-lab verify sound --plugin mine.py" in out
    lab("verify", "sound", *options, *ONE)
    _, out, _ = lab("show", "sound", *options)
    assert re.search(r"^claims     unbiased-value  verified \(\d+ cases?, \d{4}-\d\d-\d\d\)$", out, re.MULTILINE)
    assert re.search(r"^implements k1  verified \(10 cases, ", out, re.MULTILINE)
    assert re.search(r"^laws       \d+ verified$", out, re.MULTILINE)
    _, out, _ = lab("show", "sound", *options, "--json")
    assert json.loads(out)["verified"]["is-k1"]["status"] == "passed"


def test_show_tells_of_a_law_that_failed(lab):
    lab("verify", "wrong", "--plugin", "mine.py", *ONE)
    _, out, _ = lab("show", "wrong", "--plugin", "mine.py")
    assert re.search(r"^laws       \d+ verified, FAILED: bootstraps-on-truncation-only", out, re.MULTILINE)


def test_a_changed_file_is_not_verified_any_more(lab):
    lab("verify", "sound", "--plugin", "mine.py", *FEW)
    with Path("mine.py").open("a", encoding="utf-8") as file:
        file.write("# another day\n")
    _, out, _ = lab("show", "sound", "--plugin", "mine.py")
    assert "not verified yet" in out
    assert "laws       not verified yet" in out


def test_verifying_one_law_keeps_what_is_known_of_the_others(lab):
    lab("verify", "sound", "--plugin", "mine.py", *ONE)
    lab("verify", "sound", "--plugin", "mine.py", "--only", "repeatable", "--examples", "3")
    _, out, _ = lab("show", "sound", "--plugin", "mine.py", "--json")
    found = json.loads(out)["verified"]
    assert (found["is-k1"]["examples"], found["repeatable"]["examples"]) == (10, 3)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"of": 1}', '{"verdicts": {"a": 1}}'])
def test_a_damaged_record_counts_as_none(lab, tmp_path, monkeypatch, content):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    lab("verify", "sound", "--plugin", "mine.py", *FEW)
    (record,) = (tmp_path / "here/rlhf_lab/verified").iterdir()
    record.write_text(content, encoding="utf-8")
    code, out, _ = lab("show", "sound", "--plugin", "mine.py")
    assert code == 0
    assert "not verified yet" in out
    assert lab("verify", "sound", "--plugin", "mine.py", *FEW)[0] == 0


def test_a_cache_that_cannot_be_written_changes_nothing(lab, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert lab("verify", "sound", "--plugin", "mine.py", *FEW)[0] == 0
    code, out, _ = lab("show", "sound", "--plugin", "mine.py")
    assert code == 0
    assert "not verified yet" in out


def test_somebody_who_waits_at_a_terminal_is_told_what_for(lab, monkeypatch):
    monkeypatch.setattr(cli_options, "PATIENCE", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    code, out, err = lab("verify", "sound", "--plugin", "mine.py", *ONE)
    assert code == 0
    assert "verifying kl/sound" in err
    assert "verifying kl/sound" not in out

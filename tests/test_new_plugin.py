"""``rlhf-lab new-plugin``: for every role a package whose component is sound and whose own tests say so."""

import importlib.util
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from rlhf_lab.conformance import verify
from rlhf_lab.conformance.views import VIEWS
from rlhf_lab.errors import LabError
from rlhf_lab.registry import load_plugins
from rlhf_lab.skeleton import ROLES, write_plugin

ROOT = Path(__file__).parents[1]


def test_there_is_a_skeleton_for_every_role_with_laws():
    assert set(ROLES) == set(VIEWS)


@pytest.mark.parametrize("role", ROLES)
def test_the_component_of_a_new_plugin_is_sound(role, tmp_path):
    directory = write_plugin(f"my_{role}", role, tmp_path / "new")
    registry = load_plugins([str(directory / "src" / f"my_{role}" / "__init__.py")])
    component = registry.get(role, f"my_{role}")
    verdicts = verify(component, examples=15, registry=registry)
    assert [(v.property.id, v.message) for v in verdicts if v.status == "failed"] == []
    assert component.reference
    assert "Source: " in (component.__doc__ or "")


@pytest.mark.parametrize("role", ROLES)
def test_a_new_plugin_is_well_formed(role, tmp_path):
    directory = write_plugin(f"my_{role}", role, tmp_path / "new")
    files = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert files == {
        "pyproject.toml", "README.md", f"src/my_{role}/__init__.py", f"src/my_{role}/py.typed",
        f"tests/test_my_{role}.py",
    }  # fmt: skip
    project = tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["rlhf_lab"] == {f"my_{role}": f"my_{role}"}
    assert project["name"] == f"my-{role}".replace("_", "-")
    for file in directory.rglob("*.py"):
        compile(file.read_text(encoding="utf-8"), str(file), "exec")
    lint = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "120", "--select", "E,F,W,B", directory],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "No module named ruff" not in lint.stderr:
        assert lint.returncode == 0, lint.stdout


def test_the_command_writes_a_folder_and_says_how_to_go_on(command):
    code, out, _ = command("new-plugin", "my_gae", "--role", "advantage")
    assert code == 0
    assert "pip install -e 'my_gae[test]' && pytest my_gae" in out
    code, out, _ = command("verify", "my_gae", "--plugin", "my_gae/src/my_gae/__init__.py", "--examples", "5")
    assert code == 0
    assert "--badge" in Path("my_gae/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["my_env", "--role", "environment"],
            "--role environment: there is no skeleton for it. Possible: advantage, agg",
        ),
        (["my_gae", "--role", "advantges"], "Did you mean 'advantage'?"),
        (["MyGAE", "--role", "advantage"], "'MyGAE' cannot name a package; use lower-case words joined by _"),
        (["my-gae", "--role", "advantage"], "'my-gae' cannot name a package"),
        (["lambda", "--role", "advantage"], "'lambda' cannot name a package"),
        (["../gae", "--role", "advantage"], "'../gae' cannot name a package"),
        (["torch", "--role", "advantage"], "'torch' is the name of a Python module that is there already"),
        (["json", "--role", "advantage"], "'json' is the name of a Python module that is there already"),
        (["gae", "--role", "advantage"], "advantage 'gae' exists already; two of one name would be ambiguous"),
        (["my_gae", "--role", "advantage", "--out", "taken"], "taken exists already; choose another --out"),
        (["my_gae", "--role", "advantage", "--out", "file/below"], "cannot write in file/below"),
        (["my_gae"], "Missing option '--role'"),
    ],
)
def test_what_cannot_be_written_is_refused_in_words(command, arguments, says):
    Path("taken").mkdir()
    Path("file").write_text("", encoding="utf-8")
    code, out, err = command("new-plugin", *arguments)
    assert (code, out) == (2, "")
    assert says in err


def test_a_library_call_refuses_a_folder_that_is_there(tmp_path):
    with pytest.raises(LabError, match="exists already"):
        write_plugin("my_kl", "kl", tmp_path)


@pytest.mark.slow
def test_an_installed_plugin_is_found_and_passes_its_own_tests(tmp_path):
    # a fresh environment that sees this one's packages, so that nothing is downloaded
    directory = write_plugin("my_kl", "kl", tmp_path / "new")
    environment = tmp_path / "environment"
    venv.create(environment, system_site_packages=False, with_pip=False)
    python = environment / "bin" / "python"
    site = next((environment / "lib").glob("python*/site-packages"))
    seen = [path for path in sys.path if path.endswith("-packages")] + [str(ROOT)]
    (site / "outer.pth").write_text("\n".join(f"import site; site.addsitedir({path!r})" for path in seen), "utf-8")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    subprocess.run([*install, *isolation, str(directory)], check=True, capture_output=True)
    done = subprocess.run([python, "-m", "pytest", "-q", directory], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = subprocess.run(
        [python, "-m", "rlhf_lab", "verify", "my_kl", "--examples", "5"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.startswith("my_kl  (kl)  environment/lib/")

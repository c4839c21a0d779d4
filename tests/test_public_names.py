"""The public surface: every module's ``__all__`` names what is there, and nothing heavy is imported for ``--help``."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import rlhf_lab

PACKAGES = [
    "rlhf_lab", "rlhf_lab_advantages", "rlhf_lab_objectives", "rlhf_lab_policies", "rlhf_lab_trainers",
    "rlhf_lab_studies", "rlhf_lab_bandit", "rlhf_lab_mdp", "rlhf_lab_gymnasium", "rlhf_lab_sequences",
]  # fmt: skip


def modules() -> list[str]:
    found = []
    for name in PACKAGES:
        package = importlib.import_module(name)
        found.append(name)
        found += [
            m.name for m in pkgutil.walk_packages(package.__path__, f"{name}.") if not m.name.endswith("__main__")
        ]
    return found


@pytest.mark.parametrize("name", modules())
def test_all_names_exist(name):
    module = importlib.import_module(name)
    assert [missing for missing in getattr(module, "__all__", []) if not hasattr(module, missing)] == []


def test_the_top_level_says_what_it_offers():
    assert set(rlhf_lab.__all__) == {"CONTRACT", "Results", "compare", "hookimpl", "run", "verify"}
    assert callable(rlhf_lab.compare)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'comparr'"):
        _ = rlhf_lab.comparr


def test_help_imports_nothing_heavy():
    code = "import sys, rlhf_lab.cli; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "matplotlib", "numba", "pydantic"} & set(answer.stdout.split())

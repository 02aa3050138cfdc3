"""What works where a package of requirements.txt is not installed, and what is said where not."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lora2_core.__main__ import main
from lora2_core.commands import inspect as inspect_command

ROOT = Path(__file__).resolve().parents[2]
_CORE = re.compile(r"^from \.{2,3}lora2_core\.?([\w.]*) import (.+)$", re.MULTILINE)


def without(packages: list[str], code: str) -> subprocess.CompletedProcess:
    """A Python of its own in which these packages cannot be imported."""
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in packages)
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {blocked}{code}"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def test_what_the_nodes_take_of_the_core_needs_neither_diffusers_nor_transformers():
    taken = set()
    for path in (ROOT / "nodes").rglob("*.py"):
        taken |= {f"lora2_core.{module}" for module, _ in _CORE.findall(path.read_text())}
    assert len(taken) > 20
    found = without(["diffusers", "transformers"], f"import {', '.join(sorted(taken))}")
    assert (found.returncode, found.stderr) == (0, "")


def test_what_is_imported_is_named_in_requirements_and_in_the_project():
    given = {"PIL": "pillow"}
    optional = {"bitsandbytes", "prodigyopt"}
    imported = set()
    for path in (ROOT / "lora2_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.partition(".")[0])
    needed = {given.get(name, name) for name in imported - sys.stdlib_module_names - optional}
    required = (ROOT / "requirements.txt").read_text().split()
    assert {re.split("[><=]", line)[0] for line in required} == needed
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*)\]$", project, re.MULTILINE)[1]
    assert re.findall(r'"(.*?)"', listed) == required


def test_a_schedule_needs_no_diffusers():
    code = (
        "from lora2_core.training.schedule import rate_factor; "
        "from lora2_core.config import TrainConfig; "
        "print(rate_factor(TrainConfig(steps=4, lr_scheduler='cosine'))(2))"
    )
    found = without(["diffusers"], code)
    assert found.stderr == "" and float(found.stdout) == pytest.approx(0.5)


@pytest.mark.parametrize("package", ["diffusers", "torch"])
def test_a_command_names_the_package_it_lacks_and_how_to_install_it(package):
    arguments = ["demo", "--steps", "1"]
    code = f"from lora2_core.__main__ import main; sys.exit(main({arguments}))"
    found = without([package], code)
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert f"the package {package} is not installed" in found.stderr
    assert f"-m pip install -r {ROOT / 'requirements.txt'}" in found.stderr


def test_a_module_of_the_pack_that_is_missing_is_no_word_to_the_user(monkeypatch):
    monkeypatch.setitem(sys.modules, "lora2_core.commands.inspect", None)
    with pytest.raises(ModuleNotFoundError):
        main(["inspect", "a.safetensors"])


@pytest.mark.parametrize("kind", [RuntimeError, ImportError])
def test_a_package_that_another_one_lacks_is_named_too(kind, monkeypatch, capsys):
    """As diffusers puts it where transformers is not installed."""

    def run(_):
        try:
            raise ModuleNotFoundError("No module named 'transformers'", name="transformers")
        except ModuleNotFoundError as error:
            raise kind("Failed to import diffusers.loaders.peft") from error

    monkeypatch.setattr(inspect_command, "run", run)
    assert main(["inspect", "a.safetensors"]) == 2
    assert "the package transformers is not installed" in capsys.readouterr().err


def test_other_errors_are_not_taken_for_a_missing_package(monkeypatch):
    def run(_):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(inspect_command, "run", run)
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["inspect", "a.safetensors"])

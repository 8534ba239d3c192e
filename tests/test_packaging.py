"""What is installed works by itself; what the README says can be done, can be done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from project import PAGES, ROOT, copy_to

LOCK = (ROOT / "requirements.lock").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def run(*command: str | Path, **environment: str) -> str:
    "What a command prints; fails with its output."
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Built from what is in git, with the tools of this environment."
    copy, out = copy_to(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", out, copy)
    return next(out.glob("*.whl"))


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"llmops_nb", next(top for top in tops if top.endswith(".dist-info"))}
    data = [path for kind in ("static", "templates") for path in (ROOT / "llmops_nb" / kind).rglob("*") if path.is_file()]
    wanted = {"llmops_nb/py.typed", *(f"llmops_nb/{page}.py" for page in PAGES), *(path.relative_to(ROOT).as_posix() for path in data)}
    assert data
    assert wanted <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.timeout(900)
def test_base_install_works_alone(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pins = tmp_path / "pins.txt"  # The versions tested here, but only of what the base needs
    pins.write_text("\n".join(re.findall(r"^[\w.-]+==\S+(?: ; [^\\\n]+)?", LOCK, re.M)))
    run(programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", pins, wheel)
    installed = run(programs / "python", "-m", "pip", "list", "--format", "freeze").lower()
    assert not re.search(r"^(jupyterlab|papermill|transformers|xllamacpp|litellm|faiss)\b", installed, re.M), "an extra came along"
    assert run(programs / "python", "-c", "import llmops_nb; print(llmops_nb.__version__)", PYTHONPATH="").strip() == wheel.name.split("-")[1]
    assert "Usage: llmops" in run(programs / "llmops", "--help", PYTHONPATH="")


def test_lock_is_complete_and_private() -> None:
    pins = re.findall(r"^([\w.-]+)==\S+.*\\\n\s+--hash=sha256:[0-9a-f]{64}", LOCK, re.M)
    assert len(pins) == len(re.findall(r"^[\w.-]+==", LOCK, re.M)), "every pin has a hash"
    assert not re.search(r"https?://|file:|--index|@ ", LOCK)
    wanted = [*PROJECT["dependencies"], *(need for extra in PROJECT["optional-dependencies"].values() for need in extra)]
    names = {normal(re.match(r"[\w.-]+", need)[0]) for need in wanted} - {"llmops-nb"}  # type: ignore[index]
    assert names <= {normal(pin) for pin in pins}, "make lock resolves anew"


def normal(name: str) -> str:
    "A distribution's name as the index compares it."
    return re.sub(r"[-_.]+", "-", name).lower()


def test_readme_is_the_index_page(build: ModuleType) -> None:
    assert (ROOT / "README.md").read_text("utf-8") == build.readme(), "make pages writes it"


def test_readme_links_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text("utf-8")):
            assert re.match(r"\w+:", link) or (ROOT / link).exists(), f"{name}: {link}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_named_commands_exist(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    named = set(re.findall(r"(?:^|`)(?:\w+=\S+ )?make ([a-z]+)", text, re.M))
    assert named and named <= targets
    shown = run(Path(sys.executable).with_name("llmops"), "--help")
    for command in re.findall(r"^llmops ([a-z]+)", text, re.M):
        assert re.search(rf"^\s+{command}\b", shown, re.M), f"llmops {command}"

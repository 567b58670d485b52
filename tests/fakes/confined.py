"""Starts a program of an image as an engine would: read-only, as nobody, without privileges, with little memory.

    unshare --mount --propagation private python tests/fakes/confined.py SPECIFICATION

It becomes that program, under the same process id. The mounts are seen by it alone and end with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
DEVICES = ("null", "zero", "urandom", "random")


def main(wanted: dict[str, Any]) -> None:
    """Confine this process, and be the program."""
    root, user = Path(wanted["root"]), wanted["user"]
    _mount(root, wanted)
    if wanted["group"]:
        (Path(wanted["group"]) / "cgroup.procs").write_text(str(os.getpid()))
    os.chroot(root)
    os.chdir(wanted["workdir"])
    _give_up_privileges(user)
    command = wanted["command"]
    os.execvpe(command[0], command, wanted["environment"])


def _mount(root: Path, wanted: dict[str, Any]) -> None:
    """The root read-only; over it what may be written, the configuration, and what every container has."""
    _run("--bind", str(root), str(root))
    for place, options in wanted["tmpfs"].items():
        _run("-t", "tmpfs", "-o", options, "tmpfs", str(root / place.lstrip("/")))
    for source, place in wanted["read_only"].items():
        target = root / place.lstrip("/")
        if Path(source).is_file():
            target.touch()
        _run("--bind", "-o", "ro", source, str(target))
    _run("-t", "tmpfs", "-o", "size=1m,mode=755", "dev", str(root / "dev"))
    for device in DEVICES:
        (root / "dev" / device).touch()
        _run("--bind", f"/dev/{device}", str(root / "dev" / device))
    (root / "dev/shm").mkdir()
    _run("-t", "tmpfs", "-o", "size=64m,mode=1777", "shm", str(root / "dev/shm"))
    _run("-o", "remount,ro", str(root / "dev"))
    _run("--bind", "/proc", str(root / "proc"))
    _run("--bind", "-o", "ro", "/sys", str(root / "sys"))
    if wanted["group"]:
        groups = root / "sys/fs/cgroup"
        _run("-t", "tmpfs", "-o", "size=1m", "groups", str(groups))
        (groups / "memory").mkdir()
        _run("--bind", wanted["group"], str(groups / "memory"))
        _run("-o", "remount,ro", str(groups))
    _run("-o", "remount,bind,ro", str(root))


def _run(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _give_up_privileges(user: int) -> None:
    system = ctypes.CDLL(None)
    for capability in range(64):
        system.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    if system.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError("no_new_privs is refused")
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

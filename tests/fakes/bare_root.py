"""Runs the steps of the project's Dockerfile where no container engine is: in a bare Debian made with debootstrap.

How it works: a stage is a folder. `FROM debian:...` unpacks that release's smallest system, RUN is a chroot into the
folder with nothing of this machine but its network, COPY copies. The steps are read from the Dockerfile, so what is
tested is what it says. The system is kept in ~/.cache/thalamus; it takes 30 s to make.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fakes.dockerfile import Instruction, Stage, stages

CACHE = Path.home() / ".cache" / "thalamus"
MEMORY, ROOM_BYTES = Path("/dev/shm"), 4 << 30
MIRROR = "http://deb.debian.org/debian"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
STEP = """set -e
root=$1 found=$2; shift 2
mount --rbind /proc "$root/proc"
touch "$root/run/authorities" "$root/etc/resolv.conf"
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
[ ! -f "$AUTHORITIES" ] || mount --bind "$AUTHORITIES" "$root/run/authorities"
[ ! -d "$found" ] || { mkdir -p "$root/run/wheels"; mount --bind "$found" "$root/run/wheels"; }
exec chroot "$root" /usr/bin/env -i "$@"
"""


@contextmanager
def place_for_roots() -> Iterator[Path]:
    """A folder for them, in memory where there is room: a disk takes three times as long."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    with tempfile.TemporaryDirectory(prefix="thalamus-roots-", dir=MEMORY if roomy else None) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def require_bare_root() -> None:
    """Skip the test where such a root cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to change into another root")
    for program in ("debootstrap", "unshare", "chroot"):
        if not shutil.which(program, path=PATH):
            pytest.skip(f"{program} is not installed")


@dataclass
class Image:
    """A built stage, and what its instructions say about running it."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()

    def inherited(self, root: Path) -> Image:
        return Image(root, dict(self.environment), self.workdir, self.user, self.entrypoint, self.healthcheck)

    def run(self, *command: str) -> str:
        """What a command in there prints.

        Raises:
            AssertionError: it failed; with its last lines.
        """
        given = [f"{name}={value}" for name, value in (self.environment | _of_this_machine()).items()]
        inside = ("/bin/sh", "-c", 'cd "$0" && exec "$@"', self.workdir, *command)
        step = ("unshare", "--mount", "--propagation", "private", "sh", "-c", STEP, "sh")
        done = subprocess.run(
            [*step, str(self.root), os.environ.get("PIP_FIND_LINKS", "-"), *given, *inside],
            env={"PATH": PATH, "AUTHORITIES": AUTHORITIES},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout


def _of_this_machine() -> dict[str, str]:
    """What reaching a package registry takes here: its certificate authorities, and wheels on its disk."""
    told = {"PIP_CERT": "/run/authorities", "SSL_CERT_FILE": "/run/authorities"} if "PIP_CERT" in os.environ else {}
    wheels = {"PIP_FIND_LINKS": "/run/wheels"} if Path(os.environ.get("PIP_FIND_LINKS", "-")).is_dir() else {}
    return told | wheels


class Builder:
    """Builds stages of the Dockerfile below a folder, each once."""

    def __init__(self, folder: Path, dockerfile: Path = ROOT / "Dockerfile") -> None:
        self._folder = folder
        self._stages = stages(dockerfile)
        self._built: dict[str, Image] = {}

    def build(self, name: str) -> Image:
        """The stage, and those that it needs."""
        if name not in self._built:
            stage = self._stages[name]
            image = self._begin(stage)
            for instruction in stage.instructions:
                self._do(instruction, image)
            self._built[name] = image
        return self._built[name]

    def _begin(self, stage: Stage) -> Image:
        root = self._folder / stage.name
        if stage.base in self._stages:
            before = self.build(stage.base)
            subprocess.run(["cp", "-a", str(before.root), str(root)], check=True)
            return before.inherited(root)
        root.mkdir()
        if stage.base != "scratch":
            release = re.match(r"debian:([a-z]+)-", stage.base)
            assert release, f"{stage.base} is not a Debian"
            subprocess.run(
                ["tar", "--extract", "--file", str(smallest_system(release[1])), "-C", str(root)], check=True
            )
        return Image(root)

    def _do(self, one: Instruction, image: Image) -> None:
        match one.name:
            case "RUN":
                image.run("/bin/sh", "-c", one.arguments)
            case "COPY":
                self._copy(one, image)
            case "ENV" | "ARG":
                image.environment |= one.pairs
            case "WORKDIR":
                image.workdir = one.arguments
                _below(image, image.workdir).mkdir(parents=True, exist_ok=True)
            case "USER":
                image.user = one.arguments
            case "ENTRYPOINT":
                image.entrypoint = one.words
            case "HEALTHCHECK":
                image.healthcheck = Instruction("CMD", one.arguments.partition("CMD ")[2]).words
            case _:
                assert one.name in ("CMD", "EXPOSE", "VOLUME"), f"{one.name} is not known here"

    def _copy(self, one: Instruction, image: Image) -> None:
        origin = one.option("from")
        begins = self.build(origin).root if origin else ROOT
        *sources, destination = one.words
        target = _below(image, destination)
        for source in sources:
            path = begins / source.lstrip("/")
            if path.is_dir():
                unwanted = shutil.ignore_patterns("__pycache__") if not origin else None
                shutil.copytree(path, target, symlinks=True, ignore=unwanted, dirs_exist_ok=True)
            else:
                into = target / path.name if destination.endswith("/") else target
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, into)


def _below(image: Image, path: str) -> Path:
    return image.root / str(Path(image.workdir) / path).lstrip("/")


def smallest_system(release: str) -> Path:
    """An archive of it; made once."""
    archive = CACHE / f"debian-{release}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with place_for_roots() as folder:
            make = ("debootstrap", "--variant=minbase", release, str(folder / "root"), MIRROR)
            subprocess.run(make, check=True, capture_output=True)
            packed = CACHE / f"debian-{release}.{os.getpid()}"
            subprocess.run(["tar", "--create", "--file", str(packed), "-C", str(folder / "root"), "."], check=True)
        packed.rename(archive)
    return archive

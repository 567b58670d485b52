"""Writes the folder that becomes the gateway's image: Python, the libraries it loads, certificates, and the gateway.

    python3 deploy/image/minimal_root.py /rootfs

Runs in the image's build, on Debian. How it works: the files of Python's packages are taken whole, of all other
packages only the shared libraries that something in here loads, found with ldd. So there is no shell, no pip and no
package manager. What was taken from which package and version stands in /var/lib/dpkg/status.d, where scanners look.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

WHOLE = ("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "base-files", "tzdata")
"""Packages of which everything but documentation is needed, and base-files for the name of the release."""
GATEWAY = Path("/opt/thalamus")
PROGRAMS = ("python", "python3", "python3.11", "thalamus")
FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/usr/bin/python3")
NOT_NEEDED = re.compile(
    r"/usr/share/(doc/(?!.*copyright)|man|lintian|binfmts|applications|pixmaps|base-files)|/etc/(profile|update-motd|dpkg)|/root"
)
RUNS_AS = 65534


def main(root: Path) -> None:
    """Fill `root`, which must not exist."""
    for folder in ("usr/lib", "usr/lib64", "usr/bin", "usr/sbin", "dev", "proc", "sys", "run", "etc"):
        (root / folder).mkdir(parents=True)
    for merged in ("lib", "lib64", "bin", "sbin"):
        (root / merged).symlink_to(f"usr/{merged}")
    shutil.copytree(GATEWAY, root / GATEWAY.relative_to("/"), symlinks=True, ignore=_other_programs)
    for file in [*FILES, *_files_of(WHOLE)]:
        _copy(Path(file), root)
    libraries = sorted(_libraries(root))
    for library in libraries:
        _copy(Path(library), root)
    _name_packages({*WHOLE, *_packages_of(libraries)}, root)
    _make_places(root)


def _other_programs(folder: str, names: list[str]) -> list[str]:
    """Programs of the gateway's dependencies, such as those that download."""
    return [name for name in names if folder == f"{GATEWAY}/bin" and name not in PROGRAMS]


def _files_of(packages: Iterable[str]) -> Iterator[str]:
    listed = _output("dpkg", "-L", *packages)
    return (line for line in listed.splitlines() if Path(line).is_file() and not NOT_NEEDED.match(line))


def _libraries(root: Path) -> set[str]:
    """Shared libraries that the programs and modules in `root` load from outside it, and those that these load."""
    loads = [
        str(file) for file in root.rglob("*") if file.is_file() and (".so" in file.name or file.parent.name == "bin")
    ]
    found = subprocess.run(
        ["ldd", *loads], capture_output=True, text=True, check=False
    ).stdout  # scripts are no programs
    lines = {line.strip() for line in found.splitlines()}
    named = {match[1] for line in lines if (match := re.match(r"(?:\S+ => )?(/\S+) \(0x", line))}
    return {path for path in named if not path.startswith((str(root), str(GATEWAY)))}


def _copy(source: Path, root: Path) -> None:
    """The file under its name, and what its name points to."""
    target = root / source.parent.resolve().relative_to("/") / source.name
    if target.is_symlink() or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)
    if source.is_symlink():
        _copy(source.parent / source.readlink(), root)


def _packages_of(libraries: Iterable[str]) -> set[str]:
    """Debian knows a library by its name from before /lib became a link to /usr/lib, or by the one after."""
    real = {str(Path(library).resolve()) for library in libraries}
    names = real | {name.removeprefix("/usr") for name in real}
    found = subprocess.run(["dpkg", "-S", *names], capture_output=True, text=True, check=False).stdout
    return {line.split(":")[0] for line in found.splitlines()}


def _name_packages(packages: Iterable[str], root: Path) -> None:
    known = root / "var/lib/dpkg/status.d"
    known.mkdir(parents=True)
    for package in packages:
        (known / package).write_text(_output("dpkg-query", "--status", package))
        _copy(Path(f"/usr/share/doc/{package}/copyright"), root)


def _make_places(root: Path) -> None:
    """Where the gateway finds its artifacts and writes: what is its own, and what it shares with other gateways."""
    (root / "tmp").mkdir(mode=0o777)
    (root / "tmp").chmod(0o1777)
    for place in ("srv/var", "srv/shared"):
        (root / place).mkdir(parents=True, mode=0o700)
        shutil.chown(root / place, RUNS_AS, RUNS_AS)
    packaged = next(GATEWAY.glob("lib/python3*/site-packages/router_models"))
    (root / "srv/router_models").symlink_to(packaged)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))

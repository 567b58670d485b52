"""The gateway's image where no engine is: its steps in a bare Debian, then the result as compose would run it.

Read-only, uid 65534, no capability, nothing that could bring one back, 256 MiB: it starts, answers, and holds out when
one of its backends breaks, in each of six ways.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import stat
from collections import Counter
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.backend import FakeBackend, Script
from tests.fakes.bare_root import Image
from tests.fakes.caller import hear, session_to
from tests.fakes.container import MEMORY_MIB, WRITABLE, Container, container
from tests.fakes.process import HEADERS
from tests.integration.conftest import Built

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SITE = "opt/thalamus/lib/python3.11/site-packages"
PROGRAMS = ("usr/bin", "usr/sbin", "opt/thalamus/bin")
UNWANTED = ("pip", "setuptools", "torch", "transformers", "vllm")
EXPECTED_PTH: set[str] = set()
UPSTREAM = {"connect_timeout_s": 1, "first_byte_timeout_s": 2}
GOOD, BAD = ("good ",) * 5, ("bad ",) * 5
BROKEN = {
    "refuses": None,
    "resets": Script(reset=True),
    "says 503": Script(status=503),
    "says 429": Script(status=429),
    "never answers": Script(hang=True),
    "resets after the head": Script(head_then_reset=True),
}


def test_the_image_has_no_shell_no_package_manager_and_no_torch(built: Built) -> None:
    root = built.gateway.root
    programs = {
        file.name for folder in ("usr/bin", "usr/sbin", "opt/thalamus/bin") for file in (root / folder).iterdir()
    }
    files = [file for file in root.rglob("*") if file.is_file() and not file.is_symlink()]
    print(json.dumps({"image": "gateway", "mib": sum(file.stat().st_size for file in files) >> 20}))

    assert programs == {"python", "python3", "python3.11", "thalamus"}
    assert not [
        name for name in ("pip", "setuptools", "torch", "transformers", "vllm") if (root / SITE / name).exists()
    ]
    assert not [file for file in files if file.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)]
    assert {str(file.relative_to(root)) for file in root.rglob("*") if _is_for_others(file)} == {"tmp"}


def _is_for_others(file: Path) -> bool:
    return not file.is_symlink() and bool(file.stat().st_mode & stat.S_IWOTH)


def test_the_list_of_what_is_inside_is_what_pip_finds_inside(built: Built) -> None:
    root = built.gateway.root
    bill = json.loads((root / "opt/thalamus/sbom.json").read_text())
    listed = {_canonical(f"{one['name']}=={one['version']}") for one in bill["components"]}
    found = built.build.run("/opt/tools/bin/pip", "--python", "/opt/thalamus/bin/python", "list", "--format", "freeze")
    frozen = {_canonical(line) for line in found.split()}
    locked = {
        _canonical(one)
        for one in re.findall(r"^\S+==\S+", (built.build.root / "src/deploy/locks/gateway.lock").read_text(), re.M)
    }
    print(json.dumps({"sbom": len(listed), "pip_freeze": len(frozen), "locked": len(locked)}))

    assert (bill["bomFormat"], listed) == ("CycloneDX", frozen)
    assert {name for name in frozen - locked if not name.startswith("thalamus-router==")} == set()


def _canonical(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", requirement.partition("==")[0]).lower() + "==" + requirement.partition("==")[2]


def test_debians_part_is_listed_as_well(built: Built) -> None:
    known = {file.name for file in (built.gateway.root / "var/lib/dpkg/status.d").iterdir()}
    assert {"libc6", "libssl3", "libstdc++6", "libsqlite3-0", "libffi8", "python3.11-minimal"} <= known
    assert not known & {"dash", "bash", "apt", "dpkg", "perl-base"}


def test_no_code_runs_by_itself_when_python_starts(built: Built) -> None:
    files = {file.name for file in built.gateway.root.rglob("*.pth")}
    print(json.dumps({"unexpected_pth": len(files - EXPECTED_PTH)}))
    assert files == EXPECTED_PTH


def test_the_same_sources_give_the_same_wheel(built: Built) -> None:
    """Built in the image's build stage, the second time after a while and in another folder."""
    image = built.build
    (first,) = (image.root / "dist").glob("*.whl")
    image.run("cp", "-r", "/src", "/again")
    image.run("find", "/again", "-exec", "touch", "-d", "2030-01-01", "{}", "+")
    again = replace(image, workdir="/again")
    again.run("/opt/tools/bin/python", "-m", "hatchling", "build", "--target", "wheel", "--directory", "/dist2")
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (first, image.root / "dist2" / first.name)]
    print(json.dumps({"wheel": first.name, "sha256": sorted({one[:16] for one in hashes})}))
    assert hashes[0] == hashes[1]


async def test_it_starts_as_nobody_on_a_read_only_root_and_answers(built: Built, tmp_path: Path) -> None:
    async with (
        FakeBackend(Script(GOOD)) as small,
        container(built.gateway, _open(tmp_path), {"small": small.url}) as it,
    ):
        assert await _statuses(it, "/healthz", "/readyz") == [200, 200]
        async with session_to(it.gateway.url) as session:
            heard = await hear(session, stream=False)
        assert (heard.status, heard.text) == (200, "".join(GOOD))
        assert await _is_well(built.gateway, it)
        _assert_unprivileged(it)


def _open(folder: Path) -> Path:
    """For uid 65534 to read."""
    for one in (folder, *folder.parents[:2]):
        one.chmod(0o755)
    return folder


async def _statuses(it: Container, *paths: str) -> list[int]:
    found = []
    async with aiohttp.ClientSession(it.gateway.url, headers=HEADERS) as session:
        for path in paths:
            async with session.get(path) as answer:
                found.append(answer.status)
    return found


async def _is_well(image: Image, it: Container) -> bool:
    """What HEALTHCHECK says, on the port that the test has."""
    command = [part.replace("8080", str(it.gateway.port)) for part in image.healthcheck]
    given = [f"{name}={value}" for name, value in image.environment.items()]
    inside = ("/usr/bin/nsenter", "--target", str(it.gateway.pid), "--mount", "--root", "--wd")
    script = "import os, sys; os.setgid(65534); os.setuid(65534); os.execvp(sys.argv[1], sys.argv[1:])"
    process = await asyncio.create_subprocess_exec(
        *inside, "/opt/thalamus/bin/python", "-c", script, *command, env=dict(one.split("=", 1) for one in given)
    )
    return await process.wait() == 0


def _assert_unprivileged(it: Container) -> None:
    status = it.status
    assert status["Uid"].split() == status["Gid"].split() == ["65534"] * 4
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Groups"]) == ("1", "")
    assert it.writable == set(WRITABLE)


async def test_it_holds_out_in_256_mib_when_a_backend_breaks(built: Built, tmp_path: Path, full_size: bool) -> None:
    requests = 2_000 if full_size else 100
    async with (
        FakeBackend(Script(GOOD)) as bad,
        FakeBackend(Script(GOOD)) as good,
        container(built.gateway, _open(tmp_path), {"small": bad.url, "large": good.url}, upstream=UPSTREAM) as it,
        session_to(it.gateway.url) as session,
    ):
        outcomes = Counter[str]()
        for script in BROKEN.values():
            bad.script = replace(script or Script(reset=True), tokens=BAD)
            if script is None:
                await bad.stop()
            outcomes += await _asked(session, requests)
            if script is None:
                await bad.start()
        written, peak = it.written(), it.peak_bytes()
        _assert_unprivileged(it)
    print(
        json.dumps(
            {
                "requests": outcomes.total(),
                "good": outcomes["good"],
                "others": {name: count for name, count in outcomes.items() if name != "good"},
                "peak_mib": peak >> 20,
                "limit_mib": MEMORY_MIB,
                "limited_by": "cgroup v1" if it.group else "nothing: no control group could be made",
                "written": written,
            }
        )
    )
    assert outcomes["good"] >= 0.999 * outcomes.total()
    assert outcomes["mixed"] == 0
    assert peak <= MEMORY_MIB << 20
    assert all(file.startswith(("/srv/var/", "/tmp/", "/dev/")) for file in written)


async def _asked(session: aiohttp.ClientSession, requests: int) -> Counter[str]:
    """Half of them streams, 20 at once; by whether the answer is whole and of one backend."""
    at_once = asyncio.Semaphore(20)

    async def one(number: int) -> str:
        async with at_once:
            heard = await hear(session, stream=bool(number % 2), max_tokens=1)
        if "good" in heard.text and "bad" in heard.text:
            return "mixed"
        return "good" if heard.status == 200 and heard.text == "".join(GOOD) else f"{heard.status} {heard.text}"

    return Counter(await asyncio.gather(*map(one, range(requests))))

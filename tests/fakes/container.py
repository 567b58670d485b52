"""A gateway started from an image's folder the way compose starts it: read-only, uid 65534, no privileges, 256 MiB."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import free_ports
from tests.fakes.bare_root import Image
from tests.fakes.deployment import write_config
from tests.fakes.process import READY_WITHIN_S, GatewayProcess, until

CONFINED = Path(__file__).with_name("confined.py")
GROUPS = Path("/sys/fs/cgroup/memory")
MEMORY_MIB = 256
STATE, ARTIFACT = "/srv/var/state", "/srv/router_models/artifacts/public-v1"
TMPFS = {"/tmp": "size=16m,mode=1777", "/srv/var": "size=64m,mode=700,uid=65534,gid=65534"}
WRITABLE = ("/tmp", "/srv/var", "/dev/shm")


@dataclass(frozen=True)
class Container:
    """What runs, and what the kernel says about it."""

    gateway: GatewayProcess
    group: Path | None
    """Its control group of memory; None where none can be made."""

    @property
    def status(self) -> Mapping[str, str]:
        lines = Path(f"/proc/{self.gateway.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def writable(self) -> set[str]:
        """Where file systems are mounted that may be written to."""
        mounts = (line.split() for line in Path(f"/proc/{self.gateway.pid}/mounts").read_text().splitlines())
        kept = {"proc", "cgroup", "devtmpfs"}
        return {at for _, at, kind, options, *_ in mounts if options.split(",")[0] == "rw" and kind not in kept}

    def written(self) -> list[str]:
        """Files under the places that may be written to."""
        inside = Path(f"/proc/{self.gateway.pid}/root")
        files = (file for place in WRITABLE for file in (inside / place.lstrip("/")).rglob("*"))
        return sorted(f"/{file.relative_to(inside)}" for file in files if file.is_file())

    def peak_bytes(self) -> int:
        """The most memory that was charged to it."""
        if self.group:
            return int((self.group / "memory.max_usage_in_bytes").read_text())
        return self.gateway.peak_bytes()


@asynccontextmanager
async def container(image: Image, folder: Path, urls: Mapping[str, str], **changes: Any) -> AsyncIterator[Container]:
    """One model per URL, named like it; with the released router model and its state in /srv/var."""
    data, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
    given: dict[str, Any] = {"listen": data, "admin_listen": admin, "state_dir": STATE, "artifact": ARTIFACT}
    write_config(folder, urls, **given, **changes)
    log = folder / "gateway.log"
    with _memory_group() as group, log.open("wb") as output:
        arguments = ("serve", "--config", "configs/gateway.yaml")
        command = confined(image, arguments, TMPFS, {str(folder): "/srv/configs"}, group)
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
        gateway = GatewayProcess(process, f"http://{data}", f"http://{admin}", log)
        try:
            await until(lambda: len(gateway.events("gateway.started")), 1, READY_WITHIN_S)
            yield Container(gateway, group)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def confined(
    image: Image,
    arguments: Sequence[str],
    tmpfs: Mapping[str, str],
    read_only: Mapping[str, str] | None = None,
    group: Path | None = None,
) -> tuple[str, ...]:
    """The command that runs the image with these arguments, its places to write to, and what is mounted into it."""
    wanted = {
        "root": str(image.root),
        "user": int(image.user.split(":")[0]),
        "group": group and str(group),
        "tmpfs": dict(tmpfs),
        "read_only": dict(read_only or {}),
        "workdir": image.workdir,
        "environment": image.environment,
        "command": [*image.entrypoint, *arguments],
    }
    return ("unshare", "--mount", "--propagation", "private", sys.executable, str(CONFINED), json.dumps(wanted))


@contextmanager
def _memory_group() -> Iterator[Path | None]:
    """A control group with the limit; None where this machine lets none be made."""
    group = GROUPS / f"thalamus-{free_ports(1)[0]}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(MEMORY_MIB << 20))
    except OSError:
        yield None
        return
    try:
        yield group
    finally:
        with suppress(OSError):
            group.rmdir()

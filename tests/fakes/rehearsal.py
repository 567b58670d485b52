"""The services of docker-compose.yml without an engine: each in a network namespace with its name and an address.

How it works: all namespaces hang on one bridge, in the network that the compose file gives them; /etc/hosts has the
services' names. So the project's files (gateways, Redis, proxy, Prometheus) run as they are, on the ports they say.
What it does not show: images of others, volumes, and that networks are kept apart.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

BY_NAMESPACE = Path("/etc/netns")
"""`ip netns exec` mounts what is in here over /etc."""


@dataclass
class Network:
    """Where services run."""

    prefix: str
    folder: Path
    addresses: Mapping[str, str]
    """By service."""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def hosts(self) -> Path:
        return self.folder / "hosts"

    def start(self, service: str, command: Sequence[str], **environment: str) -> subprocess.Popen[bytes]:
        """Run a command as this service; it is ended with the network."""
        given = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment}
        with self.log(service).open("wb") as log:
            inside = ("ip", "netns", "exec", f"{self.prefix}{service}", *command)
            self.running[service] = subprocess.Popen(inside, env=given, stdout=log, stderr=log)
        return self.running[service]

    def log(self, service: str) -> Path:
        return self.folder / f"{service}.log"

    def fetch(self, url: str) -> str:
        """A page, as the proxy's container would see it; empty when there is none."""
        script = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=3).read().decode())"
        inside = ("ip", "netns", "exec", f"{self.prefix}proxy", "/usr/bin/env", "python3", "-c", script)
        return subprocess.run(inside, capture_output=True, text=True, check=False).stdout


@contextmanager
def network(folder: Path, services: Mapping[str, Any], subnet: str) -> Iterator[Network]:
    """One namespace for each service; all that runs in them is killed at the end."""
    prefix = f"th{os.getpid()}-"
    addresses = dict(zip(services, map(str, list(ip_network(subnet).hosts())[9:]), strict=False))
    made = Network(prefix, folder, addresses)
    lines = ("127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items()))
    made.hosts.write_text("\n".join(lines) + "\n")
    try:
        _ip("netns", "add", f"{prefix}bridge")
        _ip("-n", f"{prefix}bridge", "link", "add", "bridge", "type", "bridge")
        _ip("-n", f"{prefix}bridge", "link", "set", "bridge", "up")
        for number, (name, address) in enumerate(addresses.items()):
            _join(prefix, name, number, f"{address}/{ip_network(subnet).prefixlen}", made.hosts)
        yield made
    finally:
        for process in made.running.values():
            process.kill()
            process.wait()
        for name in ("bridge", *addresses):
            subprocess.run(["ip", "netns", "delete", prefix + name], check=False, capture_output=True)
            shutil.rmtree(BY_NAMESPACE / (prefix + name), ignore_errors=True)


def _join(prefix: str, name: str, number: int, address: str, hosts: Path) -> None:
    space, bridge = prefix + name, f"{prefix}bridge"
    (BY_NAMESPACE / space).mkdir(parents=True)
    shutil.copy(hosts, BY_NAMESPACE / space / "hosts")
    _ip("netns", "add", space)
    _ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{number}", "netns", bridge)
    _ip("-n", bridge, "link", "set", f"port{number}", "master", "bridge", "up")
    _ip("-n", space, "address", "add", address, "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", space, "link", "set", device, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def require_namespaces() -> None:
    """Skip the test where no network can be made."""
    if not shutil.which("ip", path="/usr/sbin:/usr/bin:/sbin"):
        pytest.skip("iproute2 is not installed")
    tried = subprocess.run(["ip", "link", "add", "thtry0", "type", "veth", "peer", "name", "thtry1"], check=False)
    if tried.returncode:
        pytest.skip("this machine makes no network devices")
    subprocess.run(["ip", "link", "delete", "thtry0"], check=True)

"""The services of docker-compose.yml without an engine: each in a network namespace, in the networks that it says.

How it works: each network is a bridge, on which its services have an address each; a service's /etc/hosts and its name
server have the names of those that it shares a network with. So the project's files (gateways, Redis, proxy, doors,
Prometheus) run as they are, on the ports they say. What it does not show: images of others, and volumes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import engine_names

BY_NAMESPACE = Path("/etc/netns")
"""`ip netns exec` mounts what is in here over /etc."""
NAMES = Path(engine_names.__file__)


@dataclass
class Network:
    """Where services run."""

    prefix: str
    folder: Path
    addresses: Mapping[str, Mapping[str, str]]
    """By service, and by network."""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    name_servers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def hosts(self, service: str) -> Path:
        """The names that it knows."""
        return self.folder / f"{service}.hosts"

    def start(self, service: str, command: Sequence[str], **environment: str) -> subprocess.Popen[bytes]:
        """Run a command as this service; it is ended with the network."""
        given = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment}
        namespace = ("ip", "netns", "exec", f"{self.prefix}{service}")
        self.name_servers.append(subprocess.Popen([*namespace, sys.executable, NAMES, self.hosts(service)]))
        with self.log(service).open("wb") as log:
            self.running[service] = subprocess.Popen([*namespace, *command], env=given, stdout=log, stderr=log)
        return self.running[service]

    def log(self, service: str) -> Path:
        return self.folder / f"{service}.log"

    def fetch(self, url: str, service: str = "proxy") -> str:
        """A page, as the container of a service would see it; empty when there is none."""
        script = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=3).read().decode())"
        inside = ("ip", "netns", "exec", f"{self.prefix}{service}", "/usr/bin/env", "python3", "-c", script)
        return subprocess.run(inside, capture_output=True, text=True, check=False).stdout


@contextmanager
def network(folder: Path, services: Mapping[str, Any], networks: Mapping[str, Any]) -> Iterator[Network]:
    """One namespace for each service; all that runs in them is killed at the end."""
    prefix = f"th{os.getpid()}-"
    addresses = _addresses(services, networks)
    made = Network(prefix, folder, addresses)
    for name in services:
        made.hosts(name).write_text(_hosts(name, services, addresses))
    try:
        _ip("netns", "add", f"{prefix}bridge")
        for name in networks:
            _ip("-n", f"{prefix}bridge", "link", "add", name, "type", "bridge")
            _ip("-n", f"{prefix}bridge", "link", "set", name, "up")
        ports = count()
        for name, by_network in addresses.items():
            _join(made, name, by_network, ports)
        yield made
    finally:
        for process in (*made.running.values(), *made.name_servers):
            process.kill()
            process.wait()
        for name in ("bridge", *addresses):
            subprocess.run(["ip", "netns", "delete", prefix + name], check=False, capture_output=True)
            shutil.rmtree(BY_NAMESPACE / (prefix + name), ignore_errors=True)


def _addresses(services: Mapping[str, Any], networks: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {name: {} for name in services}
    for number, (network, said) in enumerate(networks.items()):
        (subnet,) = (one["subnet"] for one in (said or {}).get("ipam", {}).get("config", [_made_up(number)]))
        members = [name for name, one in services.items() if network in one["networks"]]
        for name, address in zip(members, list(ip_network(subnet).hosts())[9:], strict=False):
            found[name][network] = f"{address}/{ip_network(subnet).prefixlen}"
    return found


def _made_up(number: int) -> dict[str, str]:
    """What an engine chooses where nothing is said."""
    return {"subnet": f"172.31.{200 + number}.0/24"}


def _hosts(service: str, services: Mapping[str, Any], addresses: Mapping[str, Mapping[str, str]]) -> str:
    """The names and aliases of all that are in one of its networks."""
    lines = ["127.0.0.1 localhost"]
    for network in addresses[service]:
        for name, one in services.items():
            if address := addresses[name].get(network):
                said = one["networks"][network] if isinstance(one["networks"], dict) else {}
                lines.append(" ".join([address.partition("/")[0], name, *said.get("aliases", ())]))
    return "\n".join(lines) + "\n"


def _join(made: Network, name: str, by_network: Mapping[str, str], ports: Iterator[int]) -> None:
    space, bridge = made.prefix + name, f"{made.prefix}bridge"
    (BY_NAMESPACE / space).mkdir(parents=True)
    shutil.copy(made.hosts(name), BY_NAMESPACE / space / "hosts")
    (BY_NAMESPACE / space / "resolv.conf").write_text(f"nameserver {engine_names.ADDRESS}\n")
    _ip("netns", "add", space)
    _ip("-n", space, "link", "set", "lo", "up")
    for network, address in by_network.items():
        port = f"port{next(ports)}"
        _ip("-n", space, "link", "add", network, "type", "veth", "peer", "name", port, "netns", bridge)
        _ip("-n", bridge, "link", "set", port, "master", network, "up")
        _ip("-n", space, "address", "add", address, "dev", network)
        _ip("-n", space, "link", "set", network, "up")


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

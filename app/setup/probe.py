"""Asks endpoints what they are: which models they list, whether they are vLLM workers, where their addresses are.

How it works: an endpoint is asked without a key first. A key whose endpoint was not said goes to the only one that
refuses without it, so none is ever sent where it was not meant to go. Endpoints that list the same models in the same
way are replicas of one backend.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from app.domain.models import Backend
from app.domain.usage import MOST_TOKENS
from app.errors import UpstreamError, UsageError, without_credentials
from app.upstream.answers.refusals import RefusedKey
from app.upstream.client import UpstreamClient
from app.upstream.http.addresses import root, versioned
from app.upstream.listing import MAX_LIST_BYTES, NO_MODELS, PROBE_WITHIN_S, fault, listed

Address = IPv4Address | IPv6Address

# Under which names servers say how much a model takes: vLLM, OpenRouter and Together, Groq, Mistral.
_CONTEXT = ("max_model_len", "context_length", "context_window", "max_context_length")
# Networks that names inside a company or a cluster resolve to; a pod's next address is in the same one.
_PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")))


@dataclass(frozen=True)
class Given:
    """An endpoint as an operator names it."""

    url: str
    key_env: str | None = None
    ca_file: str | None = None


@dataclass(frozen=True)
class Served:
    """A model as its endpoint lists it."""

    name: str
    context_tokens: int | None = None
    context_source: str = ""
    """The field of the list that says so."""
    weights: str | None = None
    """What it was loaded from, where that is another name."""
    parent: str | None = None
    """The model that it is an adapter of."""


@dataclass(frozen=True)
class Endpoint:
    """What an endpoint said."""

    given: Given
    kind: str
    models: Mapping[str, Served]
    addresses: tuple[Address, ...] = ()

    @property
    def url(self) -> str:
        return self.given.url

    @property
    def is_public(self) -> bool:
        return any(address.is_global for address in self.addresses)

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return bool(self.addresses) and all(address.is_loopback for address in self.addresses)


@dataclass(frozen=True)
class Keys:
    """Names of the variables that keys are in, and what they say."""

    environment: Mapping[str, str] = field(repr=False)
    by_url: Mapping[str, str] = field(default_factory=dict)
    bare: tuple[str, ...] = ()
    """For the endpoint that refuses without a key."""

    @classmethod
    def parse(cls, stated: Sequence[str], urls: Sequence[str], environment: Mapping[str, str]) -> Keys:
        """
        Raises:
            UsageError: a variable is not set, or is for an endpoint that is not given.
        """
        by_url, bare = by_endpoint("--key-env", stated, urls)
        for name in (*by_url.values(), *bare):
            if not environment.get(name):
                raise UsageError(f"--key-env: the environment has no {name}; set it to the endpoint's key")
        return cls(environment, by_url, bare)

    def value(self, given: Given) -> str | None:
        return self.environment.get(given.key_env) if given.key_env else None


def by_endpoint(option: str, stated: Sequence[str], urls: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Values of an option by the URL they are for, as it was given; and those for none in particular.

    Raises:
        UsageError: a value is for an endpoint that is not given.
    """
    known = {versioned(url): url for url in urls}
    by_url: dict[str, str] = {}
    for one in stated:
        url, equals, value = one.rpartition("=")
        if equals and versioned(url) not in known:
            raise UsageError(f"{option} {one}: {url} is none of the endpoints: {', '.join(urls)}")
        if equals:
            by_url[known[versioned(url)]] = value
    return by_url, tuple(one for one in stated if "=" not in one)


async def ask_all(wanted: Sequence[Given], keys: Keys) -> list[Endpoint]:
    """What the endpoints are, in their order.

    Raises:
        UsageError: with a line for each endpoint that cannot be used, or that a key is missing for.
    """
    asked = [replace(given, key_env=keys.by_url.get(given.url, given.key_env)) for given in wanted]
    found = await asyncio.gather(*(_ask(given, keys) for given in asked))
    asked = _with_bare_key(asked, found, keys)
    found = [one if given.key_env == one.given.key_env else await _ask(given, keys)
             for given, one in zip(asked, found, strict=True)]  # fmt: skip
    problems = [f"{one.given.url}: {one.problem}" for one in found if one.problem]
    if problems:
        raise UsageError("\n".join(problems))
    return [one.endpoint for one in found if one.endpoint]


async def ask_one(given: Given, keys: Keys) -> Endpoint | str:
    """What an endpoint is, or why it cannot be used."""
    found = await _ask(given, keys)
    return found.endpoint or found.problem


def replicas(endpoints: Sequence[Endpoint]) -> list[list[Endpoint]]:
    """The endpoints by backend, in their order."""
    groups: dict[Any, list[Endpoint]] = {}
    for one in endpoints:
        same = (one.kind, one.given.key_env, one.given.ca_file, frozenset(one.models.values()))
        groups.setdefault(same, []).append(one)
    return list(groups.values())


def networks(endpoints: Sequence[Endpoint]) -> list[str]:
    """What `allow_cidr` has to list for a backend at these endpoints; nothing where all are public or on loopback."""
    every = [(urlsplit(one.url).hostname, address) for one in endpoints for address in one.addresses]
    if all(address.is_global or address.is_loopback for _, address in every):
        return []
    return list(dict.fromkeys(_network(host, address) for host, address in every))


def client_of(given: Given, keys: Keys, addresses: Sequence[Address]) -> UpstreamClient:
    """A client for one endpoint; its backend has the URL for a name.

    Raises:
        UsageError: its URL, key or `ca_file` cannot be used.
    """
    allowed = [str(ip_network(address)) for address in addresses]
    backend = Backend(given.url, "openai", (given.url,), given.key_env, given.ca_file, tuple(allowed))
    value = keys.value(given)
    return UpstreamClient([backend], {given.url: value} if value else {})


@dataclass(frozen=True)
class _Found:
    given: Given
    endpoint: Endpoint | None = None
    problem: str = ""
    wants_key: bool = False


async def _ask(given: Given, keys: Keys) -> _Found:
    try:
        addresses = await _addresses(given.url)
        client = client_of(given, keys, addresses)
    except UsageError as exc:
        words = str(exc).removeprefix(f"{without_credentials(given.url)}: ").removeprefix(f"backend {given.url!r}: ")
        return _Found(given, problem=words)
    except ValueError:
        return _Found(given, problem="write a URL such as http://10.0.0.11:8000")
    async with client:
        try:
            page = await client.fetch(given.url, versioned(given.url) + "/models", PROBE_WITHIN_S, MAX_LIST_BYTES)
            models = _with_context_of_parents({name: _served(name, entry) for name, entry in listed(page).items()})
        except RefusedKey:
            which = f"refuses the key in {given.key_env}" if given.key_env else "wants a key; name it in --key-env"
            return _Found(given, problem=which, wants_key=not given.key_env)
        except (UpstreamError, ValueError) as exc:
            words = await fault(client, given.url, given.url, exc)
            return _Found(given, problem=words.replace("in ca_file", "in --ca-file"))
        if not models:
            return _Found(given, problem=NO_MODELS)
        kind = "vllm" if await _is_vllm(client, given.url) else "openai"
    return _Found(given, Endpoint(given, kind, models, addresses))


def _with_bare_key(asked: list[Given], found: Sequence[_Found], keys: Keys) -> list[Given]:
    """The endpoints, the one that refuses without a key with the key that has no endpoint yet."""
    if not keys.bare:
        return asked
    refusing = [one.given.url for one in found if one.wants_key]
    # Some services list their models to everyone and answer nobody without a key.
    whose = refusing or [given.url for given in asked if not given.key_env]
    if len(whose) != 1 or len(keys.bare) > 1:
        want = " and ".join(refusing) + (" want keys" if len(refusing) > 1 else " wants a key")
        why = want if refusing else "none of several endpoints refuses without a key"
        raise UsageError(f"--key-env {' '.join(keys.bare)}: {why}; say whose it is with --key-env URL=NAME for each")
    return [replace(given, key_env=keys.bare[0]) if given.url == whose[0] else given for given in asked]


def _served(name: str, entry: Mapping[str, Any]) -> Served:
    said = ((key, entry.get(key)) for key in _CONTEXT)
    # What no request could use up is no context, but a number that means something else.
    sane = ((key, value) for key, value in said if type(value) is int and 0 < value <= MOST_TOKENS)
    source, tokens = next(sane, ("", None))
    weights, parent = entry.get("root"), entry.get("parent")
    return Served(
        name,
        tokens,
        source,
        weights if isinstance(weights, str) and weights != name else None,
        parent if isinstance(parent, str) and parent != name else None,
    )


def _with_context_of_parents(models: Mapping[str, Served]) -> dict[str, Served]:
    """Adapters with the context of the model that they adapt, which vLLM states for that one only."""
    told = {}
    for name, served in models.items():
        parent = models.get(served.parent or "")
        if parent is not None and served.context_tokens is None and parent.context_tokens is not None:
            source = f"{parent.context_source} of {parent.name}"
            served = replace(served, context_tokens=parent.context_tokens, context_source=source)
        told[name] = served
    return told


async def _is_vllm(client: UpstreamClient, url: str) -> bool:
    try:
        version = json.loads(await client.fetch(url, root(url) + "/version", PROBE_WITHIN_S))
        metrics = await client.fetch(url, root(url) + "/metrics", PROBE_WITHIN_S, MAX_LIST_BYTES)
    except (UpstreamError, ValueError, RecursionError):
        return False
    return isinstance(version, dict) and "version" in version and b"vllm:" in metrics


async def _addresses(url: str) -> tuple[Address, ...]:
    """Where its host is; nothing where nobody knows.

    Raises:
        ValueError: it is no URL.
    """
    parts = urlsplit(url)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname or "", parts.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(_parsed(entry[4]) for entry in found))


def _parsed(socket_address: Sequence[Any]) -> Address:
    return ip_address(str(socket_address[0]).partition("%")[0])


def _network(host: str | None, address: Address) -> str:
    """The network to allow: of a host that is an address this one only."""
    around: Iterator[Any] = (network for network in _PRIVATE if address in network)
    is_literal = host is not None and host.strip("[]").partition("%")[0] == str(address)
    return str(ip_network(address) if is_literal else next(around, ip_network(address)))

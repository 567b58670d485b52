"""Which addresses the gateway may connect to: what the operator lists, and nothing that a DNS answer smuggles in.

Workers normally live on private networks, so this is an allow-list: a backend's `allow_cidr`. Without one, public
addresses pass, and loopback ones where the gateway itself listens on loopback. Link-local, multicast and unspecified
addresses never pass, whatever the list says: cloud metadata services live there. IPv4 addresses that travel inside
IPv6 ones are judged as what they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from app.errors import UsageError, without_credentials

# IPv6 networks whose addresses end in an IPv4 one: NAT64, translated (RFC 2765), and compatible (RFC 4291).
_CARRIERS = tuple(map(ip_network, ("64:ff9b::/96", "::ffff:0:0:0/96", "::/96")))
# All of IPv6 that is given out for the public Internet.
_PUBLIC_6 = ip_network("2000::/3")
# Metadata services outside the link-local range: AWS on IPv6, Alibaba, Oracle.
_METADATA = frozenset(map(ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))
_CHAT = "/chat/completions"
_VERSION = re.compile(r"v\d+[a-z]*\d*")


class AddressPolicy:
    """The addresses that one backend may have."""

    def __init__(self, allow_cidr: Iterable[str], *, allow_loopback: bool) -> None:
        self._allow_loopback = allow_loopback
        try:
            self._networks = tuple(ip_network(cidr) for cidr in allow_cidr)
        except ValueError as exc:
            raise UsageError(f"allow_cidr: {exc}; write a network such as 10.0.0.0/8") from exc

    def allows(self, address: str) -> bool:
        """Whether a connection to this IP address may be made; False for what is no address."""
        try:
            plain = _unwrapped(ip_address(address.partition("%")[0]))
        except ValueError:
            return False
        if _is_barred(plain):
            return False
        if self._networks:
            return any(plain in network for network in self._networks)
        if plain.is_loopback:
            return self._allow_loopback
        return plain.is_global and (plain.version == 4 or plain in _PUBLIC_6)


def check_url(url: str, policy: AddressPolicy) -> None:
    """Check a backend's URL as it stands in the catalogue.

    Raises:
        UsageError: it is not plain http(s), or is an address that the policy forbids. Names are checked when resolved.
    """
    shown = without_credentials(url)
    if not url.isprintable() or " " in url:
        raise UsageError(f"{shown}: leave out the space, or the line break")
    parts = _parts(url)
    if parts is None or parts.scheme not in ("http", "https") or not _is_host(parts.hostname):
        raise UsageError(f"{shown}: write a URL such as http://10.0.0.11:8000")
    if "@" in parts.netloc or parts.query or parts.fragment or "\\" in url:
        raise UsageError(f"{shown}: leave out user, password, query and fragment; a backend's key goes into key_env")
    host = parts.hostname or ""
    if not is_address(host) or policy.allows(host):
        return
    if _is_barred(_unwrapped(ip_address(host.partition("%")[0]))):
        raise UsageError(
            f"{shown}: nothing is ever asked at link-local, multicast and unspecified addresses, nor at those of cloud "
            "metadata services, whatever allow_cidr lists; give the backend another address"
        )
    raise UsageError(f"{shown}: the address is not allowed; list its network in the backend's allow_cidr")


def versioned(url: str) -> str:
    """Where a backend's API begins: its URL, with `/v1` added unless it ends in a version.

    Of APIs without a version in their address, operators write the whole address of chat completions.
    """
    base = url.rstrip("/")
    if base.endswith(_CHAT):
        return base.removesuffix(_CHAT)
    return base if _VERSION.fullmatch(base.rpartition("/")[2]) else base + "/v1"


def root(url: str) -> str:
    """A backend's URL without `/v1`: where health and metrics are."""
    return versioned(url).removesuffix("/v1").rstrip("/")


def is_address(host: str) -> bool:
    """Whether a host is an IP address as it stands, and no resolver need be asked."""
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _parts(url: str) -> SplitResult | None:
    """None where brackets or the port are not as they must be."""
    try:
        parts = urlsplit(url)
        return None if parts.port == 0 else parts
    except ValueError:
        return None


def _is_host(host: str | None) -> bool:
    """Whether a resolver can be asked for it: labels may be neither empty nor longer than 63 bytes."""
    try:
        return bool(host and host.encode("idna"))
    except UnicodeError:
        return False


def _is_barred(address: IPv4Address | IPv6Address) -> bool:
    """Whether no list lets it in."""
    return address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA


def _unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv4Address):
        return address
    if address.is_loopback or address.is_unspecified:
        return address
    if any(address in network for network in _CARRIERS):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address

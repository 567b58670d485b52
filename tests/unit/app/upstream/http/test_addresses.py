"""Which addresses may be connected to."""

from __future__ import annotations

import pytest

from app.errors import UsageError
from app.upstream.http.addresses import AddressPolicy, check_url, root, versioned

NEVER = [
    "169.254.169.254",
    "fe80::1%eth0",
    "224.0.0.1",
    "0.0.0.0",
    "::",
    "ff02::1",
    "fd00:ec2::254",
    "100.100.100.200",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::",
    "::169.254.169.254",
    "::ffff:0:169.254.169.254",
    "2130706433",
    "0x7f000001",
    "localhost",
    "",
]


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_refused_whatever_the_list_says(address: str) -> None:
    assert not AddressPolicy((), allow_loopback=True).allows(address)
    assert not AddressPolicy(("0.0.0.0/0", "::/0"), allow_loopback=True).allows(address)


@pytest.mark.parametrize(
    ("address", "listed", "unlisted", "unlisted_in_public"),
    [
        ("10.0.0.11", True, False, False),
        ("::ffff:10.0.0.11", True, False, False),
        ("192.168.1.1", False, False, False),
        ("8.8.8.8", False, True, True),
        ("127.0.0.1", False, True, False),
        ("::1", False, True, False),
        ("::ffff:127.0.0.1", False, True, False),
        ("::127.0.0.1", False, True, False),
        ("::ffff:0:127.0.0.1", False, True, False),
        ("64:ff9b::8.8.8.8", False, True, True),
        ("64:ff9b:1::7f00:1", False, False, False),
        ("fec0::1", False, False, False),
        ("2001:4860:4860::8888", False, True, True),
    ],
)
def test_a_list_allows_what_it_names_and_no_list_what_is_public(
    address: str, listed: bool, unlisted: bool, unlisted_in_public: bool
) -> None:
    assert AddressPolicy(("10.0.0.0/8",), allow_loopback=True).allows(address) is listed
    assert AddressPolicy((), allow_loopback=True).allows(address) is unlisted
    assert AddressPolicy((), allow_loopback=False).allows(address) is unlisted_in_public


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/",
        "host:8000",
        "http://",
        "http://user:secret@host/",
        "http://host/v1?key=x",
        "http://host/#x",
        "http://host\\@evil/",
        "http://169.254.169.254/latest",
        "http://[::ffff:169.254.169.254]/",
        "http://192.168.0.1:8000",
        "http://host:99999",
        "http://host:port",
        "http://host\t/",
        "http://ho st/",
        "http://host/\r\nx-injected: 1",
        "http://a..b/",
        "http://" + "a" * 64 + "/",
    ],
)
def test_a_url_that_may_not_be_used_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(UsageError):
        check_url(url, AddressPolicy((), allow_loopback=True))


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "0.0.0.0", "100.100.100.200"]
)
def test_of_an_address_that_no_list_lets_in_it_is_said_that_none_does(host: str) -> None:
    lists = ("169.254.0.0/16", "0.0.0.0/0") if "." in host and ":" not in host else ("fe80::/10", "::/0")
    with pytest.raises(UsageError, match="whatever allow_cidr lists; give the backend another address"):
        check_url(f"http://{host}:8000", AddressPolicy(lists, allow_loopback=True))


def test_of_an_address_that_a_list_would_let_in_it_is_said_where_to_list_it() -> None:
    with pytest.raises(UsageError, match="list its network in the backend's allow_cidr"):
        check_url("http://10.0.0.1:8000", AddressPolicy((), allow_loopback=True))


@pytest.mark.parametrize(
    "url", ["http://me:hunter2@host/", "https://hunter2@10.0.0.1:8000", "me:hunter2@host", "http://a:hunt er2@b@host"]
)
def test_who_would_log_in_is_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as told:
        check_url(url, AddressPolicy((), allow_loopback=True))
    assert "er2" not in str(told.value)
    assert "***@" in str(told.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "https://api.example.com/v1", "http://[::1]:8000/"])
def test_a_plain_url_passes(url: str) -> None:
    check_url(url, AddressPolicy((), allow_loopback=True))


def test_a_network_that_is_none_is_named() -> None:
    with pytest.raises(UsageError, match="allow_cidr"):
        AddressPolicy(("10.0.0.1/8",), allow_loopback=True)


@pytest.mark.parametrize(
    ("url", "begins"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("http://h/proxy", "http://h/proxy/v1"),
        ("https://h/openai/v1/", "https://h/openai/v1"),
        ("https://h/api/paas/v4", "https://h/api/paas/v4"),
        ("https://h/v1beta/openai/chat/completions", "https://h/v1beta/openai"),
        ("https://h/inference/chat/completions", "https://h/inference"),
    ],
)
def test_an_api_begins_at_its_version_or_where_its_operator_says(url: str, begins: str) -> None:
    assert versioned(url) == begins


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/v1/", "http://h:1/v1/chat/completions"])
def test_metrics_are_beside_the_api(url: str) -> None:
    assert root(url) == "http://h:1"

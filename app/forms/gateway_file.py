"""The gateway's file as operators write it: every key with its bounds, and what holds without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, PlainValidator, model_validator

from app.domain.dimensions import Dimension, Scale
from app.domain.preferences import Profile
from app.domain.vocabulary import VOCABULARY
from app.forms.catalog_file import Count, Form, Positive
from app.forms.grants import Grant, preferences
from app.store.journal.kept import KEEP
from app.store.keys.key import Secret
from app.upstream.http.deadline import Timeouts


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener is."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        return self.host == "localhost" or ip_address(self.host).is_loopback

    def takes(self, other: Address) -> bool:
        """Whether a listener there leaves no room for the other one."""
        hosts = {"127.0.0.1" if host == "localhost" else host for host in (self.host, other.host)}
        everywhere = any(ip_address(host).is_unspecified for host in hosts)
        return self.port == other.port and (len(hosts) == 1 or everywhere)

    @classmethod
    def parse(cls, value: object) -> Address:
        host, colon, port = str(value).rpartition(":")
        host = host.strip("[]")
        if not colon or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError("expected an address and a port, such as 127.0.0.1:8080")
        if host != "localhost":
            try:
                ip_address(host)
            except ValueError as exc:
                raise ValueError("expected an IP address before the port, such as 127.0.0.1:8080") from exc
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _scales(value: object) -> dict[str, Scale]:
    """Scales by the name of their dimension."""
    by_key = {dimension.scale_key: dimension for dimension in VOCABULARY.dimensions}
    expected = f"expected any of {', '.join(by_key)}, each with its worst and its best end"
    if not isinstance(value, dict):
        raise ValueError(expected)
    if unknown := [str(name) for name in value if name not in by_key]:
        raise ValueError(f"{expected}, got {', '.join(unknown)}")
    return {by_key[name].name: _scale(by_key[name], ends) for name, ends in value.items()}


def _scale(dimension: Dimension, ends: object) -> Scale:
    name, kind = dimension.scale_key, dimension.ends
    if not isinstance(ends, list) or len(ends) != 2:
        raise ValueError(f"{name}: expected [worst, best], got {ends}")
    try:
        scale = dimension.rescaled(*ends)
    except (ValueError, OverflowError) as exc:
        raise ValueError(
            f"{name}: expected [worst, best], both {kind.expected}, and different, got {_shown(ends)}"
        ) from exc
    if not scale.rises_like(dimension.scale):
        swapped = _shown([kind.as_json(scale.best), kind.as_json(scale.worst)])
        raise ValueError(
            f"{name}: expected [worst, best], where {dimension.gain} is better: {swapped}, got {_shown(ends)}"
        )
    return scale


def _shown(ends: list[object]) -> str:
    """As one would write them."""
    return f"[{', '.join(map(str, ends))}]"


Listen = Annotated[Address, PlainValidator(Address.parse)]
SecretText = Annotated[Secret, PlainValidator(lambda value: Secret(str(value)))]


class _ProfileForm(Form):
    weights: dict[str, Any] = Field(default_factory=dict)
    max_quality_loss: float | None = None
    limits: dict[str, Any] = Field(default_factory=dict)
    order: tuple[str, ...] = ()
    """Models as they are tried when there is no prediction; those not named follow in the catalogue's order."""
    steady: bool = False
    """Whether a dear model needs more than a prompt's first words."""

    @model_validator(mode="after")
    def _is_understood(self) -> _ProfileForm:
        self.profile()
        return self

    def profile(self) -> Profile:
        soft = {"weights": self.weights, "max_quality_loss": self.max_quality_loss}
        return Profile(preferences({**self.limits, **soft}), self.order, self.steady)


class _KeyForm(Grant):
    id: str = Field(min_length=1, max_length=64)
    secret_env: str | None = None
    secret: SecretText | None = None

    @model_validator(mode="after")
    def _one_secret(self) -> _KeyForm:
        if (self.secret is None) == (self.secret_env is None):
            raise ValueError("expected either secret_env, the name of an environment variable, or secret")
        return self

    def found_secret(self, environment: Mapping[str, str]) -> Secret:
        return self.secret or Secret(environment[self.secret_env or ""])


_TIMEOUTS = Timeouts()


class _UpstreamForm(Form):
    connect_timeout_s: Positive = _TIMEOUTS.connect_s
    pool_wait_s: Positive = _TIMEOUTS.pool_wait_s
    first_byte_timeout_s: Positive = _TIMEOUTS.first_byte_s
    idle_timeout_s: Positive = _TIMEOUTS.idle_s
    total_timeout_s: Positive = _TIMEOUTS.total_s
    max_attempts: Annotated[int, Field(ge=1, le=5)] = 3
    hedge: bool = False


class _JournalForm(Form):
    keep_days: Positive = KEEP.days
    keep_records: Count | None = None
    """None is what suits the store: a million, or in Redis 200,000."""


class _LimitsForm(Form):
    body_bytes: Annotated[int, Field(ge=1024, le=32 << 20)] = 4 << 20
    in_flight: Count = 512
    memory_mib: Annotated[int, Field(ge=64)] | None = None
    """None leaves it to the limit of the control group, where there is one."""
    accept_s: Annotated[float, Field(ge=0, le=600)] = 5.0
    drain_s: Positive = 20.0


def _store(value: object) -> str | None:
    """The address of Redis; None for what the gateway keeps itself."""
    text = str(value)
    if text == "embedded":
        return None
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("expected embedded, or the address of a Redis, such as redis://127.0.0.1:6379/0")
    if "@" in text or "password" in parse_qs(urlsplit(text).query):
        raise ValueError("expected an address without a password; name its environment variable in store_password_env")
    return text


class GatewayForm(Form):
    """The file as a whole."""

    listen: Listen = Address("127.0.0.1", 8080)
    admin_listen: Listen = Address("127.0.0.1", 8081)
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    store: Annotated[str | None, PlainValidator(_store)] = None
    store_password_env: str | None = None
    state_dir: Path = Path("state")
    pepper_file: Path | None = None
    catalog: Path
    artifact: Path | None = None
    encoder: Literal["auto", "transformer", "static"] = "auto"
    predictor_limit_s: Positive = 0.02
    scales: Annotated[dict[str, Scale], PlainValidator(_scales)] = Field(default_factory=dict)
    profiles: dict[str, _ProfileForm] = Field(default_factory=dict)
    baseline: str | None = None
    keys: tuple[_KeyForm, ...] = ()
    upstream: _UpstreamForm = _UpstreamForm()
    limits: _LimitsForm = _LimitsForm()
    journal: _JournalForm = _JournalForm()

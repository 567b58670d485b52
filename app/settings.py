"""What an operator may set: gateway.yaml and the catalogue it names, checked once at start, turned into domain types.

Paths in a file are relative to that file. Secrets come from the environment; a key in plain text is accepted only
while the listener is on loopback.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.domain.dimensions import Scale
from app.domain.models import Catalog
from app.domain.preferences import DEFAULT_PROFILE, Profile
from app.forms.catalog_file import load_catalog
from app.forms.gateway_file import Address, GatewayForm
from app.forms.grants import may_set_problems
from app.forms.yaml_files import load_form, read_bytes, refuse
from app.store.journal.kept import Keep
from app.store.keys.key import Key, Secret
from app.upstream.http.deadline import Timeouts

__all__ = ["Address", "Settings", "load_settings"]


# Names of variables in the environment are written so; hardly any secret is.
_VARIABLE = re.compile("[A-Z_][A-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the gateway takes on at a time."""

    body_bytes: int
    in_flight: int
    memory_mib: int | None
    accept_s: float
    """After SIGTERM: how long requests are still taken while load balancers read that the gateway leaves."""
    drain_s: float
    """How long what is in flight after that may take."""


@dataclass(frozen=True, slots=True)
class Files:
    """The content of the gateway's file and of the catalogue that it names."""

    gateway: bytes
    catalog: bytes

    @property
    def version(self) -> str:
        """A fingerprint."""
        return hashlib.sha256(self.gateway + self.catalog).hexdigest()[:12]


@dataclass(frozen=True)
class Settings:
    """All of it, checked."""

    path: Path
    files: Files
    """As they were read."""
    listen: Address
    admin_listen: Address
    workers: int
    store: str | None
    """The address of the Redis that several gateways share; None for what this one keeps itself."""
    store_password: Secret | None
    state_dir: Path
    """The folder of what this gateway keeps."""
    pepper_file: Path
    """What the secrets of generated keys are digested with."""
    catalog: Catalog
    catalog_path: Path
    backend_keys: Mapping[str, Secret]
    """The backends' own keys, by backend."""
    artifact: Path | None
    encoder: str
    predictor_limit_s: float
    scales: Mapping[str, Scale]
    """By dimension, where the operator set other ends."""
    profiles: Mapping[str, Profile]
    """With at least the default one."""
    baseline: str | None
    """The model that metrics compare routing with; None leaves it to the default profile."""
    keys: tuple[tuple[Secret, Key], ...]
    timeouts: Timeouts
    max_attempts: int
    hedge: bool
    limits: Limits
    journal: Keep
    """How much of the journal is kept."""

    @property
    def version(self) -> str:
        """What records and logs call it."""
        return self.files.version


@dataclass(frozen=True, slots=True)
class StorePlace:
    """Where a gateway keeps things: what one needs to know of it who does not run it."""

    store: str | None
    store_password: Secret | None
    state_dir: Path
    pepper_file: Path
    catalog: Catalog
    profiles: tuple[str, ...]
    keys: tuple[str, ...]
    """Ids of those in the file."""


def load_place(path: Path, environment: Mapping[str, str] = os.environ) -> StorePlace:
    """Read where the gateway of this file keeps things; the secrets of its keys and backends need not be there.

    Raises:
        UsageError: with one line for each thing that is wrong.
    """
    form = load_form(path, GatewayForm)
    refuse(path, list(_store_problems(form, environment)))
    return StorePlace(
        store=form.store,
        store_password=_store_password(form, environment),
        state_dir=path.parent / form.state_dir,
        pepper_file=_pepper_file(path, form),
        catalog=load_catalog(path.parent / form.catalog, option=f"`catalog` in {path}"),
        profiles=tuple({DEFAULT_PROFILE: None, **form.profiles}),
        keys=tuple(key.id for key in form.keys),
    )


def load_settings(path: Path, environment: Mapping[str, str] = os.environ, files: Files | None = None) -> Settings:
    """Read and check the gateway's file and the catalogue that it names; or `files`, which were read from there.

    Raises:
        UsageError: with one line for each thing that is wrong.
    """
    content = files.gateway if files else read_bytes(path)
    form = load_form(path, GatewayForm, content)
    catalog_path = path.parent / form.catalog
    files = files or Files(content, read_bytes(catalog_path, f"`catalog` in {path}"))
    catalog = load_catalog(catalog_path, files.catalog)
    refuse(catalog_path, list(_missing_backend_keys(catalog, environment)))
    places = _place_problems(form, path.parent / form.state_dir)
    refuse(path, [*places, *_problems(form, catalog, environment), *_key_problems(form, environment)])
    upstream, limits = form.upstream, form.limits
    return Settings(
        path=path,
        files=files,
        workers=form.workers,
        listen=form.listen,
        admin_listen=form.admin_listen,
        store=form.store,
        store_password=_store_password(form, environment),
        state_dir=path.parent / form.state_dir,
        pepper_file=_pepper_file(path, form),
        catalog=catalog,
        catalog_path=catalog_path,
        backend_keys={one.name: Secret(environment[one.key_env]) for one in catalog.backends if one.key_env},
        artifact=path.parent / form.artifact if form.artifact else None,
        encoder=form.encoder,
        predictor_limit_s=form.predictor_limit_s,
        scales=form.scales,
        profiles={DEFAULT_PROFILE: Profile()} | {name: one.profile() for name, one in form.profiles.items()},
        baseline=form.baseline,
        keys=tuple((one.found_secret(environment), one.key(one.id)) for one in form.keys),
        timeouts=Timeouts(
            connect_s=upstream.connect_timeout_s,
            pool_wait_s=upstream.pool_wait_s,
            first_byte_s=upstream.first_byte_timeout_s,
            idle_s=upstream.idle_timeout_s,
            total_s=upstream.total_timeout_s,
        ),
        max_attempts=upstream.max_attempts,
        hedge=upstream.hedge,
        limits=Limits(limits.body_bytes, limits.in_flight, limits.memory_mib, limits.accept_s, limits.drain_s),
        journal=Keep(form.journal.keep_days, form.journal.keep_records),
    )


def _missing_backend_keys(catalog: Catalog, environment: Mapping[str, str]) -> Iterator[str]:
    for index, backend in enumerate(catalog.backends):
        if backend.key_env and not environment.get(backend.key_env):
            yield f"backends[{index}].key_env: {_unset(backend.key_env)}; set it to the backend's key"


def _unset(name: str) -> str:
    """What to say of a variable that is not set: its name, unless that looks like what the variable was to hold."""
    return f"the environment has no {name if _VARIABLE.fullmatch(name) else 'variable of that name'}"


def _store_password(form: GatewayForm, environment: Mapping[str, str]) -> Secret | None:
    return Secret(environment[form.store_password_env]) if form.store_password_env else None


def _pepper_file(path: Path, form: GatewayForm) -> Path:
    return path.parent / (form.pepper_file or form.state_dir / "pepper")


def _store_problems(form: GatewayForm, environment: Mapping[str, str]) -> Iterator[str]:
    if form.store_password_env and not environment.get(form.store_password_env):
        yield f"store_password_env: {_unset(form.store_password_env)}; set it to the store's password"


def _place_problems(form: GatewayForm, state_dir: Path) -> Iterator[str]:
    if form.listen.takes(form.admin_listen):
        yield f"admin_listen: {form.admin_listen} is taken by listen; give it another port"
    there = next((path for path in (state_dir, *state_dir.parents) if _is_there(path)), None)
    if there and not there.is_dir():
        yield f"state_dir: {there} is a file; name a folder, or a path where nothing is yet"


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # not for this user to see
        return False


def _problems(form: GatewayForm, catalog: Catalog, environment: Mapping[str, str]) -> Iterator[str]:
    known = {model.name for model in catalog.models}
    yield from _store_problems(form, environment)
    if form.baseline is not None and form.baseline not in known:
        yield f"baseline: the catalogue has no model {form.baseline!r}"
    for name, profile in form.profiles.items():
        for model in profile.order:
            if model not in known:
                yield f"profiles.{name}.order: the catalogue has no model {model!r}"


def _key_problems(form: GatewayForm, environment: Mapping[str, str]) -> Iterator[str]:
    for index, key in enumerate(form.keys):
        if key.secret and not form.listen.is_loopback:
            yield f"keys[{index}].secret: plain text is for listeners on loopback only; use secret_env"
        if key.secret_env and not environment.get(key.secret_env):
            yield f"keys[{index}].secret_env: {_unset(key.secret_env)}; set it to the key's secret"
        yield from (f"keys[{index}].{problem}" for problem in may_set_problems(key.may_set))
    ids = [key.id for key in form.keys]
    for name in {name for name in ids if ids.count(name) > 1}:
        yield f"keys: the id {name!r} occurs twice; give each key its own"
    yield from _shared_secrets(form, environment)


def _shared_secrets(form: GatewayForm, environment: Mapping[str, str]) -> Iterator[str]:
    owners: dict[Secret, str] = {}
    for key in form.keys:
        # A variable that is not set will be the secret of all who name it.
        named = environment.get(key.secret_env or "") or f"${key.secret_env}"
        owner = owners.setdefault(key.secret or Secret(named), key.id)
        if owner != key.id:
            yield f"keys: {owner!r} and {key.id!r} have the same secret; give each key its own"

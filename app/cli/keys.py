"""`thalamus keys`: generated keys, made, shown, ended and exchanged in the store that a gateway's file names.

The gateways on that store follow within two seconds; none of them has to run.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import getpass
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from app.cli.serve import DEFAULT_CONFIG
from app.errors import GatewayError, InvalidRequest, UsageError, shown
from app.store.keys.key import DEFAULT_SCOPES, SCOPES

if TYPE_CHECKING:
    from app.settings import StorePlace
    from app.store.keys.issuer import Issued, Issuer, Record

Found = TypeVar("Found")

keys = typer.Typer(no_args_is_help=True, help="Make, list, end and exchange keys for callers.")

Config = Annotated[Path, typer.Option(help="The gateway's YAML; it names the store.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
UNLIMITED = "none"
# By the field that it sets.
OPTIONS = {
    "budget": "--budget",
    "models": "--models",
    "profiles": "--profiles",
    "requests_per_minute": "--rpm",
    "routing.max_cost_usd": "--max-cost-usd",
    "routing.min_quality": "--min-quality",
    "scopes": "--scopes",
    "source_cidrs": "--cidr",
    "tenant": "--tenant",
    "tokens_per_minute": "--tpm",
    "concurrency": "--concurrency",
}

_SCOPES_HELP = (
    f"Scopes, separated by commas: {', '.join(sorted(SCOPES))}; if absent {', '.join(sorted(DEFAULT_SCOPES))}."
)


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what it is for.")] = "",
    config: Config = DEFAULT_CONFIG,
    models: Annotated[str, typer.Option(help="Patterns of models, separated by commas.")] = "*",
    profiles: Annotated[str, typer.Option(help="Patterns of profiles, separated by commas.")] = "*",
    scopes: Annotated[str | None, typer.Option(help=_SCOPES_HELP)] = None,
    rpm: Annotated[str, typer.Option(help="Requests a minute, or none for any number.")] = "60",
    tpm: Annotated[str, typer.Option(help="Tokens a minute, or none.")] = "100000",
    concurrency: Annotated[str, typer.Option(help="Requests at a time, or none.")] = "8",
    max_tokens: Annotated[int | None, typer.Option(help="The longest answer.", min=1)] = None,
    budget: Annotated[str, typer.Option(help="USD in a period, such as 10/day or 200/month, or none.")] = "10/day",
    soft: Annotated[bool, typer.Option("--soft", help="Serve and tell above the budget instead of refusing.")] = False,
    min_quality: Annotated[
        float | None, typer.Option(help="Predicted quality that is always asked for, 0 to 1.")
    ] = None,
    max_cost_usd: Annotated[float | None, typer.Option(help="What one request may be expected to cost.")] = None,
    expires: Annotated[str, typer.Option(help="Days that it is good, or none for ever.")] = "90",
    cidr: Annotated[list[str] | None, typer.Option(help="Network its callers may come from; may be repeated.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose key it is.")] = None,
    env: Annotated[str, typer.Option(help="The word after rk_ in the key.")] = "live",
    as_json: AsJson = False,
) -> None:
    """Make a key. Prints it, this once, and what it grants.

    Example: `thalamus keys create alice --models 'qwen*' --budget 50/month --min-quality 0.6 --max-cost-usd 0.01`
    """
    stated: dict[str, Any] = {
        "models": _some(models, "--models"),
        "profiles": _some(profiles, "--profiles"),
        "requests_per_minute": _number(rpm, "--rpm"),
        "tokens_per_minute": _number(tpm, "--tpm"),
        "concurrency": _number(concurrency, "--concurrency"),
        "max_tokens": max_tokens,
        "budget": _budget(budget, soft=soft),
        "routing": _routing(min_quality, max_cost_usd),
        "source_cidrs": cidr or (),
        "tenant": tenant,
    }
    if scopes is not None:
        stated["scopes"] = _some(scopes, "--scopes")
    stated["expires_at"] = _end(_number(expires, "--expires"))
    place = _place(config)
    _check_that_secrets_are_seen()
    issued = _within(place, lambda issuer: _created(issuer, name, stated, env))
    remedy = f"end it, and make another: thalamus keys revoke {issued.record.id}"
    with _seen(f"the key {issued.record.id} has a secret", remedy):
        _show(issued, place, as_json=as_json)


@keys.command(name="list")
def list_(config: Config = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show all generated keys, those that have ended too; no secrets.

    Example: `thalamus keys list`
    """
    records, unread = _within(_place(config), _all)
    if unread:
        print(f"Not shown: {unread} that a later release wrote; list them with that one", file=sys.stderr)
    if as_json:
        print(json.dumps([record.told() for record in records]))
        return
    for record in records:
        print(f"{record.id}  {_state(record):<28} {_printable(record.name)}")
    if not records and not unread:
        print("There are none; thalamus keys create makes one.")


async def _all(issuer: Issuer) -> tuple[Sequence[Record], int]:
    """The keys, and how many more there are."""
    records = await issuer.list()
    return records, await issuer.count() - len(records)


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `thalamus keys list` shows it.")],
    config: Config = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """End a key, everywhere within two seconds.

    Example: `thalamus keys revoke 3fK9aQ0xLmZt`
    """
    record = _within(_place(config), lambda issuer: issuer.revoke(key_id, _who()))
    print(json.dumps(record.told()) if as_json else f"{record.id} has ended.")


@keys.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="As `thalamus keys list` shows it.")],
    config: Config = DEFAULT_CONFIG,
    grace_hours: Annotated[float, typer.Option(help="How long the old secret is good.", min=0, max=720)] = 24,
    as_json: AsJson = False,
) -> None:
    """Give a key another secret. Prints it, this once; the old one stays good for a while, but no longer than the key.

    Two secrets are good at a time: where the key was rotated within such a while before, the one before that ends now.

    Example: `thalamus keys rotate 3fK9aQ0xLmZt --grace-hours 48`
    """
    place = _place(config)
    _check_that_secrets_are_seen()
    issued = _within(place, lambda issuer: issuer.rotate(key_id, _who(), grace_hours * 3600))
    remedy = (
        "rotate it once more, which ends the secret that its callers have, "
        f"or end it: thalamus keys revoke {issued.record.id}"
    )
    with _seen(f"the key {issued.record.id} has another secret", remedy):
        _show(issued, place, as_json=as_json)
        if not as_json:
            print(f"\n{_until(issued, grace_hours)}")


@keys.command()
def audit(
    config: Config = DEFAULT_CONFIG,
    count: Annotated[int, typer.Option(help="How many of the last entries.", min=1)] = 100,
) -> None:
    """Print who did what to which key, one JSON object a line, oldest first.

    Example: `thalamus keys audit --count 20`
    """
    for entry in _within(_place(config), lambda issuer: issuer.audit(count)):
        print(json.dumps(entry))


def _place(config: Path) -> StorePlace:
    from app.settings import load_place

    return load_place(config)


def _within(place: StorePlace, work: Callable[[Issuer], Awaitable[Found]]) -> Found:
    """What some work with the store finds.

    Raises:
        UsageError: the store does not answer, or refuses.
    """
    from app.assembly.generated_keys import connected, opened_keys
    from app.store.redis_client import StoreDown

    async def run() -> Found:
        async with connected(place) as redis, opened_keys(place, redis) as opened:
            return await work(opened.issuer)

    try:
        return asyncio.run(run())
    except StoreDown as exc:
        where = place.store or place.state_dir
        raise UsageError(f"the store of the keys ({where}) does not answer: {exc}") from exc
    except GatewayError as exc:
        raise UsageError(exc.message) from exc


async def _created(issuer: Issuer, name: str, stated: Mapping[str, Any], environment: str) -> Issued:
    from app.forms.grants import new_grant
    from app.store.keys.credentials import ENVIRONMENT, NAME

    if not NAME.fullmatch(name):
        raise UsageError(
            f"the name of a key: expected at most 64 characters in one line that can be printed, got {shown(name)!r}"
        )
    if not ENVIRONMENT.fullmatch(environment):
        raise UsageError(f"--env: expected a word such as live or test, got {environment!r}")
    try:
        grant = new_grant(**stated)
    except InvalidRequest as exc:
        raise UsageError(_under_options(exc.message)) from exc
    return await issuer.create(name, grant.plain(), _who(), environment)


def _under_options(message: str) -> str:
    """What is wrong with a grant, with the option that was typed in place of the field that it begins with."""
    said = message.removeprefix("routing: ")
    for name, option in OPTIONS.items():
        if said.startswith(name):
            return option + re.sub(r"^(\.\w+|\[\d+\])*", "", said.removeprefix(name))
    return message


def _show(issued: Issued, place: StorePlace, *, as_json: bool) -> None:
    from app.forms.grants import described, read_key

    if as_json:
        print(json.dumps(issued.told()))
        return
    key = read_key(issued.record.id, issued.record.grant)
    print(f"{issued.secret.reveal()}\n\nKeep it: it is not shown again. Its id is {issued.record.id}. It grants:\n")
    for line in described(key, [model.name for model in place.catalog.models], place.profiles):
        print(f"  {line}")


@contextmanager
def _seen(what: str, remedy: str) -> Iterator[None]:
    """A block that shows a secret.

    Raises:
        UsageError: nobody has seen it, with what to do then.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as exc:
        _drop_stdout()
        raise UsageError(f"{what} that could not be shown ({exc.strerror}), so it is lost; {remedy}") from exc


def _check_that_secrets_are_seen() -> None:
    """
    Raises:
        UsageError: there is no stdout, as after `>&-`, and Python would print nothing without a word.
    """
    if sys.stdout is None:
        raise UsageError("stdout is closed, and a secret is shown there once and nowhere else; leave it open")


def _drop_stdout() -> None:
    """Have what could not be written to stdout go nowhere, or Python would try once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _until(issued: Issued, grace_hours: float) -> str:
    """How long the secret before is good, and what became of the one before that."""
    old, key_end = issued.record.digests[1:], issued.record.expires_at
    if not old:
        return "No secret before it is good any more."
    said = f"The secret before it is good for {grace_hours:g} hours more."
    if key_end is not None and key_end < (old[0].until or 0):
        end = dt.datetime.fromtimestamp(key_end, dt.UTC)
        said = f"The secret before it is good as long as the key, until {end:%Y-%m-%d %H:%M} UTC."
    return f"{said} The one before that ended now." if issued.cut_short else said


def _printable(name: str) -> str:
    """The name of a key, of which an earlier release may have taken any character."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)


def _state(record: Record) -> str:
    if record.revoked_at:
        return "revoked"
    if record.expires_at is None:
        return "good, for ever"
    end = dt.datetime.fromtimestamp(record.expires_at, dt.UTC)
    return f"{'expired' if end < dt.datetime.now(dt.UTC) else 'good until'} {end:%Y-%m-%d %H:%M}"


def _who() -> str:
    """Who runs the command, for the audit."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"


def _some(text: str, option: str) -> list[str]:
    """What is separated by commas."""
    if found := [part.strip() for part in text.split(",") if part.strip()]:
        return found
    raise UsageError(f"{option}: expected at least one, or a key could do nothing; leave it out for what is usual")


def _number(text: str, option: str) -> float | None:
    if text == UNLIMITED:
        return None
    try:
        number = float(text)
        return int(number) if number.is_integer() else number
    except ValueError as exc:
        raise UsageError(f"{option}: expected a number, or none; got {text!r}") from exc


def _end(days: float | None) -> dt.datetime | None:
    """When a key ends that is good for so many days from now; None is never."""
    if days is None:
        return None
    if days <= 0:
        raise UsageError(f"--expires: expected more than 0 days, or none for a key without an end; got {days:g}")
    try:
        return (dt.datetime.now(dt.UTC) + dt.timedelta(days=days)).replace(microsecond=0)
    except (OverflowError, ValueError) as exc:
        raise UsageError(f"--expires: expected days that end before the year 10000, or none; got {days:g}") from exc


def _budget(text: str, *, soft: bool) -> Mapping[str, Any] | None:
    if text == UNLIMITED:
        return None
    usd, _, period = text.partition("/")
    return {"usd": _number(usd, "--budget"), "per": period or "day", "hard": not soft}


def _routing(min_quality: float | None, max_cost_usd: float | None) -> Mapping[str, Any]:
    asked = {"min_quality": min_quality, "max_cost_usd": max_cost_usd}
    return {name: value for name, value in asked.items() if value is not None}

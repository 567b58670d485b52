"""`thalamus journal`: what was asked, decided and spent, read from where a gateway's file says that it is kept.

No gateway has to run. What has happened in the last second is not there yet.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib.util
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.callers import called, ids_of, names_of_keys
from app.cli.serve import DEFAULT_CONFIG
from app.errors import UsageError

if TYPE_CHECKING:
    from app.domain.models import Model
    from app.settings import StorePlace
    from app.store.journal.kept import JournalStore

Row = dict[str, Any]

journal = typer.Typer(no_args_is_help=True, help="Follow, sum and export the record of all requests.")

Config = Annotated[Path, typer.Option(help="The gateway's YAML; it names the store.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OfKey = Annotated[str | None, typer.Option("--key", help="Only requests of this key, by its name or id.")]
OfModel = Annotated[str | None, typer.Option("--model", help="Only requests that this model answered.")]
OfTenant = Annotated[
    str | None, typer.Option("--tenant", help="Only requests of this tenant's keys; -: of keys without one.")
]
OfOutcome = Annotated[
    str | None, typer.Option("--outcome", help="Only those that ended so: ok, cancelled, explained, a code.")
]
Since = Annotated[
    dt.datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="Only later ones; UTC.")
]

READ_AT_ONCE = 500
LOOK_EVERY_S = 0.5
NO_NAME = "-"
SUMS = ("key", "model", "profile", "tenant", "outcome")


@journal.command()
def tail(
    latest: Annotated[int, typer.Option("-n", help="Begin with so many of the latest.", min=0)] = 20,
    follow: Annotated[bool, typer.Option(help="Go on with those that come.")] = True,
    config: Config = DEFAULT_CONFIG,
    key: OfKey = None,
    model: OfModel = None,
    outcome: OfOutcome = None,
    as_json: AsJson = False,
) -> None:
    """Print requests as they end, one line each, until Ctrl-C.

    Example: `thalamus journal tail --key alice --outcome ok`, or `thalamus journal tail -n 1000 --no-follow --json`
    """
    show = _print_json if as_json else _print_line

    async def run() -> None:
        async with _opened(config) as (store, where):
            fits, names = _fits(await _ids(store, where, key), model, outcome), await names_of_keys(where)
            place = await store.place_before(latest)
            while True:
                async for rows, at in _rows(store, place):
                    place = at
                    if any(row["key"] not in names for row in rows):
                        names = await names_of_keys(where)
                    for row in filter(fits, rows):
                        show(row, names)
                if not follow:
                    return
                await asyncio.sleep(LOOK_EVERY_S)

    _run(run)


@journal.command(name="sum")
def summed(
    by: Annotated[str, typer.Option(help=f"One of {', '.join(SUMS)}.")] = "key",
    config: Config = DEFAULT_CONFIG,
    since: Since = None,
    key: OfKey = None,
    model: OfModel = None,
    as_json: AsJson = False,
) -> None:
    """Say how many requests there were, what they took and what they cost, by key, model or profile.

    Who only had a decision explained asked no model; such requests are counted apart. So are answers of unknown
    cost, as of models without a price: where no cost is known it is -, and null in JSON.

    Example: `thalamus journal sum --by model --since 2026-11-01`
    """
    if by not in SUMS:
        raise UsageError(f"--by: expected one of {', '.join(SUMS)}")
    sums: defaultdict[str, Sums] = defaultdict(_nothing_yet)
    names: dict[str, str] = {}

    async def run() -> None:
        async with _opened(config) as (store, where):
            fits = _fits(await _ids(store, where, key), model, None, since)
            async for rows, _ in _rows(store, None):
                for row in filter(fits, rows):
                    _add(sums[(_end(row) if by == "outcome" else row[by]) or NO_NAME], row)
            if by == "key":
                names.update(await names_of_keys(where))

    _run(run)
    if as_json:
        named = {"names": {one: names[one] for one in sums if names.get(one)}} if by == "key" else {}
        print(json.dumps({"by": by, "sums": sums, **named}))
    else:
        _show_sums(by, {called(one, names): numbers for one, numbers in sums.items()})


@journal.command()
def export(
    parquet: Annotated[Path | None, typer.Option(help="File to write, one row for each request.")] = None,
    outcomes: Annotated[
        Path | None, typer.Option(help="Folder for an outcomes dataset of the requests that were rated.")
    ] = None,
    config: Config = DEFAULT_CONFIG,
    since: Since = None,
    key: OfKey = None,
    tenant: OfTenant = None,
    all_tenants: Annotated[
        bool, typer.Option("--all-tenants", help="Let prompts of several tenants into one dataset.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the journal as Parquet, or as an outcomes dataset that `thalamus train`, `onboard` and `evaluate` read.

    The text of prompts is only in it where a key has `keeps_bodies: true`; a dataset leaves requests without text out.
    It has no splits: `train` and `evaluate` draw them by the prompts' texts. A dataset is of one tenant, unless told
    otherwise. What an earlier export wrote there stays; newer ratings replace older ones.

    Example: `thalamus journal export --parquet var/journal.parquet --outcomes var/rated --tenant acme`
    """
    if parquet is None and outcomes is None:
        raise UsageError("say what to write: --parquet FILE, --outcomes FOLDER, or both")
    if tenant is not None and all_tenants:
        raise UsageError("--tenant and --all-tenants exclude each other")
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError("exporting needs the extra `collect`: pip install 'thalamus-router[collect]'")
    from app.cli.exported import report
    from app.collect.export import parquet_file
    from app.collect.rated import Written, refuse_foreign, write_rated

    if outcomes:
        refuse_foreign(outcomes)
    rated: list[Row] = []
    models: list[Model] = []
    written = 0

    async def run() -> None:
        nonlocal written
        async with _opened(config) as (store, where):
            models.extend(where.catalog.models)
            fits = _fits(await _ids(store, where, key), None, None, since, tenant)
            async for rows, _ in _rows(store, None):
                kept = list(filter(fits, rows))
                written += len(kept)
                rated.extend(row for row in kept if row["score"] is not None)
                if add:
                    add(kept)

    with parquet_file(parquet) if parquet else nullcontext() as add:
        _run(run)
    found = write_rated(outcomes, rated, models, all_tenants=all_tenants) if outcomes else Written(len(rated))
    report(outcomes, written, found, as_json=as_json)


@asynccontextmanager
async def _opened(config: Path) -> AsyncIterator[tuple[JournalStore, StorePlace]]:
    """The store, and where it is."""
    from app.assembly.stores import journal_store
    from app.settings import load_place
    from app.store.sqlite import FILE

    place = load_place(config)
    if place.store is None and not (place.state_dir / FILE).exists():
        raise UsageError(f"{place.state_dir}: there is no journal yet; a gateway makes one with its first start")
    async with journal_store(place) as store:
        yield store, place


def _run(work: Callable[[], Any]) -> None:
    from app.store.redis_client import StoreDown

    try:
        asyncio.run(work())
    except StoreDown as exc:
        raise UsageError(f"the store does not answer: {exc}") from exc
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


async def _rows(store: JournalStore, place: str | None) -> AsyncIterator[tuple[list[Row], str]]:
    """What is kept after this place, some at a time, each time with the place where it goes on."""
    import orjson

    from app.store.journal.flat import flat

    while found := await store.after(place, READ_AT_ONCE):
        place = found[-1][0]
        records = [orjson.loads(record) for _, record in found]
        told = await store.feedback([one["decision_id"] for one in records if one.get("decision_id")])
        yield [flat(one, told.get(one.get("decision_id", ""))) for one in records], place


async def _ids(store: JournalStore, where: StorePlace, key: str | None) -> frozenset[str] | None:
    """Of the keys that this is the name or the id of; None for all.

    Raises:
        BadParameter: there is no such key, and never was.
    """
    if key is None:
        return None
    if ids := ids_of(key, await names_of_keys(where)):
        return ids
    # What a key asked outlives its line in the configuration.
    async for rows, _ in _rows(store, None):
        if any(row["key"] == key for row in rows):
            return frozenset({key})
    raise typer.BadParameter(
        f"no key {key!r}; they are in `thalamus keys list` and in the configuration", param_hint="--key"
    )


def _fits(
    keys: frozenset[str] | None,
    model: str | None,
    outcome: str | None,
    since: dt.datetime | None = None,
    tenant: str | None = None,
) -> Callable[[Row], bool]:
    after = since.replace(tzinfo=dt.UTC).timestamp() if since else 0.0

    def fits(row: Row) -> bool:
        is_theirs = row["time"] >= after and (keys is None or row["key"] in keys)
        is_theirs = is_theirs and tenant in (None, row["tenant"] or NO_NAME)
        return is_theirs and model in (None, row["model"]) and outcome in (None, _end(row))

    return fits


def _is_explained(row: Row) -> bool:
    """Whether only the decision was asked for."""
    return bool(row["operation"] == "explain")


def _end(row: Row) -> str:
    """How a request ended; no model was asked where only the decision was."""
    return "explained" if row["outcome"] == "ok" and _is_explained(row) else str(row["outcome"])


def _print_json(row: Row, names: Mapping[str, str]) -> None:
    from app.store.journal.flat import JSON_COLUMNS

    named = {**row, "key_name": names.get(row["key"]) or None}
    known = {name: value for name, value in named.items() if value is not None}
    print(json.dumps(known | {name: json.loads(known[name]) for name in JSON_COLUMNS if name in known}), flush=True)


def _print_line(row: Row, names: Mapping[str, str]) -> None:
    at = dt.datetime.fromtimestamp(row["time"], dt.UTC).strftime("%m-%d %H:%M:%S")
    cost = "-" if row["cost_usd"] is None else f"${row['cost_usd']:.6f}{'?' if row['reconstructed'] else ''}"
    tokens = f"{row['input_tokens'] or 0}+{row['output_tokens'] or 0} tokens"
    took = "" if row["duration_s"] is None else f" {row['duration_s']:.2f} s"
    print(
        f"{at} {called(row['key'], names)} {row['asked_for'] or '-'} > {row['model'] or '-'} ({row['reason'] or '-'}) "
        f"{_end(row)} {tokens} {cost}{took}  {row['decision_id'] or row['request_id']}",
        flush=True,
    )


_SUMMED = (
    "requests",
    "explained",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "cost_usd",
    "reconstructed_usd",
    "unpriced",
)
"""`unpriced` counts the requests that a model answered whose cost nobody knows; `cost_usd` has nothing of them."""
_ALWAYS_SHOWN = ("requests", "cost_usd")

Sums = dict[str, float | None]


def _add(sums: dict[str, Any], row: Row) -> None:
    sums["explained" if _is_explained(row) else "requests"] += 1
    for name in _SUMMED[2:5]:
        sums[name] += row[name] or 0
    cost_usd = row["cost_usd"]
    if cost_usd is not None:
        sums["cost_usd"] = (sums["cost_usd"] or 0) + cost_usd
        sums["reconstructed_usd"] += cost_usd if row["reconstructed"] else 0
    elif row["model"] is not None:
        sums["unpriced"] += 1


def _nothing_yet() -> Sums:
    """No request, and no cost that is known."""
    return {**dict.fromkeys(_SUMMED, 0), "cost_usd": None}


def _show_sums(by: str, sums: Mapping[str, Sums]) -> None:
    """A row each, dearest first; without columns that say nothing."""
    from app.cli.screen import WholeTable, console

    names = [name for name in _SUMMED if name in _ALWAYS_SHOWN or any(numbers[name] for numbers in sums.values())]
    table = WholeTable(by)
    for name in names:
        # Of what is too wide all else goes on in the next line before money does.
        table.add_column(name.replace("_", " "), justify="right", no_wrap=name.endswith("usd"))
    for key, numbers in sorted(sums.items(), key=lambda item: -(item[1]["cost_usd"] or 0)):
        table.add_row(key, *(_figure(name, numbers[name]) for name in names))
    console().print(table, highlight=False)


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.6f}" if name.endswith("usd") else f"{value:,.0f}"

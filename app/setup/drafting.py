"""From endpoints and a LiteLLM file to a draft: who is asked, what is left out, and under which names it is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import date
from ipaddress import ip_address
from urllib.parse import urlsplit

from app.api.bodies.parameters import EXTRAS
from app.errors import UsageError
from app.setup.draft import Draft, DraftBackend, DraftModel
from app.setup.facts import Around, add_facts, known_as
from app.setup.known import Known
from app.setup.measure import EXTRA, TEMPERATURE, Asker, Measured, NotAnswered
from app.setup.probe import Endpoint, Given, Keys, Served, ask_all, ask_one, client_of, networks, replicas
from app.upstream.answers.refusals import RefusedKey
from app.upstream.http.addresses import versioned
from app.upstream.listing import some

# More are a provider's whole offer, of which an operator means a few.
MOST_MODELS = 20
_NAME_CHARS = 120
# Words that names of models consist of which say nothing of the model.
_NO_MODEL = frozenset(
    ("model", "default", "main", "local", "llm", "chat", "base", "assistant", "my", "the", "test", "tgi")
)
_INSIDE = (".internal", ".local", ".localhost", ".lan", ".svc")

Bar = Callable[[str, int], Callable[[], object]]
"""Opens a bar with a name and a number of steps; what it returns is called after each step."""


@dataclass(frozen=True)
class Wish:
    """What an operator asks for."""

    endpoints: tuple[Given, ...]
    keys: Keys
    models: tuple[str, ...] = ()
    """Those meant, as their endpoints name them; all where empty."""
    measure: bool = True
    usd_per_gpu_hour: float | None = None
    columns: Sequence[str] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    day: date = field(default_factory=date.today)


@dataclass
class Drafted:
    """The draft, and what is told of it beside the files."""

    draft: Draft
    recognised: dict[str, str] = field(default_factory=dict)
    """What a model is known as, by its name in the catalogue."""
    tokens_per_s: dict[str, float] = field(default_factory=dict)
    """Several requests at once."""
    is_here: bool = False
    """Whether a backend is on this machine."""
    unanswered: dict[str, str] = field(default_factory=dict)
    """Models that were asked and did not answer once, with the reason."""
    without_temperature: list[DraftModel] = field(default_factory=list)
    """Those that refuse the one of exams and collections."""
    without_extras: list[DraftModel] = field(default_factory=list)
    """Those that refuse one of vLLM's own parameters."""
    with_extras: list[DraftModel] = field(default_factory=list)
    """Those that take it, and are no vLLM workers."""


@dataclass
class _Task:
    """One model to ask and to write."""

    model: DraftModel
    served: Served
    backend: DraftBackend
    endpoint: Endpoint | None
    """None: its endpoint is not asked."""
    known: Known | None
    is_taken_over: bool = False
    """Written by the operator elsewhere, so it stays whatever its endpoint says."""

    @property
    def is_public(self) -> bool:
        return self.endpoint.is_public if self.endpoint else _seems_public(self.backend.urls[0])

    @property
    def is_here(self) -> bool:
        return self.endpoint.is_here if self.endpoint else _seems_here(self.backend.urls[0])


async def draft_of(wish: Wish, bar: Bar, taken_over: Draft | None = None) -> Drafted:
    """Ask the endpoints and write down what is known of their models, beside what was taken over from elsewhere.

    Raises:
        UsageError: a line for each endpoint that cannot be used; or nothing is left to write.
    """
    draft = taken_over or Draft()
    tasks = await _taken_over(draft, wish)
    tasks += _found(draft, wish, await ask_all(wish.endpoints, wish.keys))
    drafted = Drafted(draft, is_here=any(task.is_here for task in tasks))
    step = bar("asking models", len(tasks)) if wish.measure and tasks else (lambda: None)
    for task in tasks:
        await _complete(drafted, task, wish)
        step()
    _leave_out(draft, drafted.without_temperature, ("temperature",), f"temperature {TEMPERATURE:g}")
    _leave_out(draft, drafted.without_extras, EXTRAS, EXTRA, "with the rest of vLLM's own")
    _keep_extras(draft, drafted.with_extras)
    used = {model.backend for model in draft.models}
    draft.backends = [backend for backend in draft.backends if backend.name in used]
    if not draft.models:
        raise UsageError("\n".join(["no model is left to route to", *draft.left_out]))
    return drafted


async def _complete(drafted: Drafted, task: _Task, wish: Wish) -> None:
    """Measure a model and fill its entry; one that does not chat leaves the draft."""
    try:
        measured = await _measured(task, wish)
    except NotAnswered as exc:
        if not task.is_taken_over:
            drafted.draft.models.remove(task.model)
            where = f"{task.served.name} at {task.backend.urls[0]}"
            drafted.draft.left_out.append(f"{where}: does not answer chat requests, {exc}")
            return
        measured = Measured(problem=str(exc))
    around = Around(wish.day, task.is_public, task.backend.kind, wish.usd_per_gpu_hour, wish.columns, wish.aliases)
    add_facts(task.model, task.served, around, task.known, measured)
    task.model.open += _doubts(task)
    if measured and measured.refuses_temperature:
        drafted.without_temperature.append(task.model)
    if measured and measured.takes_extras is not None:
        (drafted.with_extras if measured.takes_extras else drafted.without_extras).append(task.model)
    if measured and not measured.is_answered:
        drafted.unanswered[task.model.name] = measured.problem
    if task.known:
        drafted.recognised[task.model.name] = task.known.name
    if measured and measured.tokens_per_s:
        drafted.tokens_per_s[task.model.name] = measured.tokens_per_s


def _doubts(task: _Task) -> Iterator[str]:
    """Whether a model is one at all addresses of its backend, where nothing that was listed says which one it is."""
    names = (task.served.name, task.served.weights or "")
    is_assumed = len(task.backend.urls) > 1 and not task.is_taken_over
    if is_assumed and not task.known and all(map(_says_nothing, names)):
        yield (
            f"backend: whether {' and '.join(task.backend.urls)} serve one model is not known, their names do not say; "
            "if not, give each a backend and a model of its own"
        )


def _says_nothing(name: str) -> bool:
    """Whether a name, or a path of weights, may be any model's."""
    return _NO_MODEL.issuperset(re.findall(r"[a-z]+", name.rstrip("/").rpartition("/")[2].lower()))


def _leave_out(
    draft: Draft, refusing: Sequence[DraftModel], fields: Sequence[str], asked: str, beside: str = ""
) -> None:
    """Have no such fields sent to models that refuse what was asked; they leave a backend whose others take it."""
    for backend in list(draft.backends):
        theirs = [model for model in draft.models if model.backend == backend.name]
        own = [model for model in theirs if model in refusing]
        if not own:
            continue
        if len(own) < len(theirs):
            name = unused(backend.name, {one.name for one in draft.backends})
            backend = replace(backend, name=name, rename=dict(backend.rename), guesses=dict(backend.guesses))
            draft.backends.append(backend)
        for model in own:
            model.backend = backend.name
        backend.rename |= dict.fromkeys(fields)
        names = ", ".join(model.served_as for model in own)
        source = f"{names} refused {asked} when asked, so callers' is left out{beside and ', ' + beside}"
        backend.guesses["rename"] = "; ".join([*filter(None, [backend.guesses.get("rename")]), source])


def _keep_extras(draft: Draft, taking: Sequence[DraftModel]) -> None:
    """Say of the models' backends that they take what vLLM takes: otherwise nobody knows."""
    kept = {model.backend for model in taking}
    for backend in draft.backends:
        if backend.name in kept:
            backend.rename.setdefault(EXTRA, EXTRA)


async def _measured(task: _Task, wish: Wish) -> Measured | None:
    """
    Raises:
        NotAnswered: it does not chat.
        UsageError: the endpoint refuses our key.
    """
    endpoint = task.endpoint
    if endpoint is None or not wish.measure:
        return None
    context = task.served.context_tokens
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(client_of(endpoint.given, wish.keys, endpoint.addresses))
        asker = Asker(client, endpoint.url, task.served.name, context, task.backend.rename)
        try:
            is_vllm = endpoint.kind == "vllm"
            return await asker.measure(at_once=is_vllm and not endpoint.is_public, tries_extra=not is_vllm)
        except RefusedKey as exc:
            key = endpoint.given.key_env
            which = f"refuses the key in {key}" if key else "wants a key; name it in --key-env"
            if task.is_taken_over:
                raise NotAnswered(f"it {which}", is_final=True) from exc
            raise UsageError(f"{endpoint.url}: {which}") from exc


async def _taken_over(draft: Draft, wish: Wish) -> list[_Task]:
    """The models that were taken over; their endpoints are asked only where others are asked too."""
    tasks = []
    for backend in draft.backends:
        endpoint = await _reached(draft, backend, wish) if wish.endpoints else None
        for model in (model for model in draft.models if model.backend == backend.name):
            served = Served(model.served_as)
            if endpoint:
                served = endpoint.models.get(model.served_as.removeprefix("models/"), served)
            tasks.append(_Task(model, served, backend, endpoint, known_as(served), is_taken_over=True))
    return tasks


async def _reached(draft: Draft, backend: DraftBackend, wish: Wish) -> Endpoint | None:
    found = await ask_one(Given(backend.urls[0], backend.key_env, backend.ca_file), wish.keys)
    if isinstance(found, Endpoint):
        return found
    draft.left_out.append(f"{backend.name} ({backend.urls[0]}): its models were not asked, because it {found}")
    return None


def _found(draft: Draft, wish: Wish, endpoints: Sequence[Endpoint]) -> list[_Task]:
    """Backends and models of the endpoints, added to the draft; those that it has already stay as they are."""
    _check_models(wish, endpoints)
    there = {(versioned(url), model.served_as) for model, url in _with_urls(draft)}
    tasks: list[_Task] = []
    for group in replicas(endpoints):
        backend = _backend(group, {one.name for one in draft.backends})
        draft.backends.append(backend)
        for served in _meant(group[0], wish, draft.left_out):
            if (versioned(group[0].url), served.name) in there:
                continue
            name = unused(model_name(served.name), {model.name for model in draft.models})
            model = DraftModel(name, served.name, backend.name)
            draft.models.append(model)
            base = group[0].models.get(served.parent or "")
            known = known_as(base or Served(served.parent)) if served.parent else known_as(served)
            tasks.append(_Task(model, served, backend, group[0], known))
    return tasks


def _with_urls(draft: Draft) -> Iterator[tuple[DraftModel, str]]:
    urls = {backend.name: backend.urls for backend in draft.backends}
    for model in draft.models:
        for url in urls[model.backend]:
            yield model, url


def _check_models(wish: Wish, endpoints: Sequence[Endpoint]) -> None:
    every = {name for one in endpoints for name in one.models}
    for name in wish.models:
        if name not in every:
            raise UsageError(f"--models: no endpoint serves {name!r}; they serve {some(sorted(every), name)}")
    for one in endpoints:
        if len(one.models) > MOST_MODELS and not wish.models:
            raise UsageError(f"{one.url}: serves {some(one.models)}; name those you mean with --models A,B")


def _meant(endpoint: Endpoint, wish: Wish, left_out: list[str]) -> Iterator[Served]:
    """The models to ask; a line for each of the others, unless they were not asked for."""
    if wish.models and not any(name in wish.models for name in endpoint.models):
        left_out.append(f"{endpoint.url}: serves none of --models")
    for name, served in endpoint.models.items():
        if wish.models and name not in wish.models:
            continue
        known = known_as(served)
        if known and known.not_chat:
            left_out.append(f"{name} at {endpoint.url}: is for {known.not_chat}, and does not chat")
            continue
        yield served


def _backend(group: Sequence[Endpoint], taken: Collection[str]) -> DraftBackend:
    first = group[0]
    return DraftBackend(
        unused(_host(first.url), taken),
        first.kind,
        [one.url for one in group],
        key_env=first.given.key_env,
        ca_file=first.given.ca_file,
        allow_cidr=networks(group),
        guesses={"urls": "replicas of each other, because all list the same models"} if len(group) > 1 else {},
    )


def _host(url: str) -> str:
    parts = urlsplit(url)
    host = (parts.hostname or "").replace(":", "-")
    return f"{host}-{parts.port}" if parts.port else host


def model_name(served: str) -> str:
    """The catalogue's name of a model: the last part of its endpoint's, in lower case."""
    last = served.rstrip("/").rpartition("/")[2].lower()
    name = re.sub(r"[^a-z0-9._-]+", "-", last).strip("._-")[:_NAME_CHARS]
    return name if name not in ("", "auto") else f"model-{name}".rstrip("-")


def unused(name: str, taken: Collection[str]) -> str:
    """The name, with a number behind it where it is taken."""
    return next(one for one in (name, *(f"{name}-{n}" for n in range(2, len(taken) + 3))) if one not in taken)


def _seems_public(url: str) -> bool:
    """Whether a host looks like one of the internet, without asking anybody."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith(_INSIDE) and ".svc." not in host


def _seems_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

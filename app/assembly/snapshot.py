"""All that one configuration makes. It is never changed: another configuration makes another one.

How it works: what takes long (reading files, loading an artifact, tables of thousands of models) makes a `Draft`, away
from the event loop and without touching what runs. Opening the draft takes over from the snapshot before it, in one
step: replicas that stay keep their load and health, keys that stay what they have used.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from app.admission.gate import Admission, Gate
from app.admission.ledger import Ledger
from app.admission.memory import memory_limit_bytes, memory_share
from app.admission.promises import Baseline, Promises
from app.admission.shedding import Shedding
from app.api.access import Access
from app.api.connection.doors import Doors
from app.api.connection.uploads import Uploads
from app.assembly.router_model import RouterModel, source
from app.assembly.stores import Stores
from app.domain.preferences import DEFAULT_PROFILE
from app.errors import UsageError
from app.gateway import Desk, Gateway
from app.routing.candidates import CandidateTable
from app.routing.record import describe, predicted_quality
from app.routing.router import Learned, Router
from app.settings import Settings
from app.store.keys.issuer import NAMED
from app.store.keys.key import Keys, StaticKeys
from app.store.keys.key_ring import AllKeys
from app.telemetry import Telemetry
from app.upstream.client import UpstreamClient
from app.upstream.dispatcher import Dispatcher, DispatchLimits
from app.upstream.fleet.changes import Tell
from app.upstream.fleet.replicas import Replicas
from app.upstream.fleet.telling import publish
from app.upstream.poller import Poller
from app.upstream.prober import Prober


@dataclass(frozen=True)
class Lasting:
    """What outlives a configuration: whether the gateway stops, and what is counted and remembered."""

    stores: Stores
    shedding: Shedding
    telemetry: Telemetry
    gate: Gate = field(default_factory=Gate)
    tell: Tell = lambda _: None
    """Hears of changes of replicas that other processes should hear of."""
    processes: int = 1
    """How many of a gateway share the machine's memory."""

    def __post_init__(self) -> None:
        metrics = self.telemetry.metrics
        metrics.refresh_with(lambda: metrics.pressed(self.shedding.readings()))
        metrics.refresh_with(lambda: metrics.kept.stores(self.stores.up()))
        metrics.refresh_with(lambda: metrics.kept.budgets(self.stores.budget_states()))


class LentModel:
    """A router model that several snapshots may use at a time; the last one closes it."""

    def __init__(self, settings: Settings) -> None:
        """
        Raises:
            UsageError: the artifact cannot be used.
        """
        self.source = source(settings)
        self.model = RouterModel.of(settings) if settings.artifact else None
        self._users = 0

    def serves(self, settings: Settings) -> bool:
        """Whether it is what these settings want."""
        return self.source == source(settings)

    def take(self) -> None:
        self._users += 1

    def give_back(self) -> None:
        self._users -= 1
        if not self._users and self.model:
            self.model.predictor.close()


@dataclass(frozen=True)
class Draft:
    """A configuration that can be used; nothing of it runs yet."""

    settings: Settings
    lent: LentModel
    router: Router
    client: UpstreamClient

    @classmethod
    def of(cls, settings: Settings, before: Snapshot | None = None) -> Draft:
        """Takes up to some seconds; may run in any thread.

        Raises:
            UsageError: the artifact or a backend cannot be used, or an address is not the one that is listened on.
        """
        if before:
            check_lasting(settings, before.settings)
        client = create_client(settings)
        lent = before.lent if before and before.lent.serves(settings) else LentModel(settings)
        lent.take()
        return cls(settings, lent, create_router(settings, lent.model), client)

    async def discard(self) -> None:
        """It is not to run after all, or no longer."""
        await self.client.aclose()
        self.lent.give_back()


class Snapshot:
    """A configuration at work."""

    def __init__(self, draft: Draft, lasting: Lasting, before: Snapshot | None = None) -> None:
        """Make it from a draft whose client is open; `before` is what it takes over from."""
        settings, telemetry = draft.settings, lasting.telemetry
        self._draft, self.settings, self.lent, self.router = draft, settings, draft.lent, draft.router
        known = before.replicas if before else None
        self.replicas: Replicas = Replicas(settings.catalog, time.monotonic, telemetry, before=known, tell=lasting.tell)
        self._poller = Poller(draft.client, self.replicas)
        self._prober = Prober(draft.client, self.replicas, settings.catalog)
        stores = lasting.stores
        promises = Promises(telemetry.metrics.promises, baseline_of(settings, draft.lent.model))
        ledger = Ledger(stores.limits, stores.journal, stores.budgets, telemetry, promises, settings.version)
        total_s = settings.timeouts.total_s
        self.admission = Admission(ledger, time.monotonic, total_s, lasting.shedding, lasting.gate)
        dispatch = DispatchLimits(settings.timeouts, settings.max_attempts, settings.hedge)
        dispatcher = Dispatcher(draft.client, self.replicas, dispatch, time.monotonic, telemetry)
        desk = Desk(self.router, stores.journal, describe, stores.sessions, is_shared=stores.redis is not None)
        self.gateway = Gateway(self.admission, desk, dispatcher, self.replicas, telemetry)
        access = self.access = Access(settings.catalog, settings.profiles)
        limits = settings.limits
        self.doors = Doors(
            create_keys(settings, stores.keys.ring),
            access,
            self.gateway,
            telemetry,
            limits.body_bytes,
            uploads=Uploads.within(memory_limit_bytes(limits.memory_mib, processes=lasting.processes)),
        )
        self._adopt(lasting)

    @property
    def backends(self) -> frozenset[str]:
        return frozenset(backend.name for backend in self.settings.catalog.backends)

    async def watch(self) -> None:
        """Look after its replicas."""
        await self._poller.start()
        await self._prober.start()

    async def retire(self) -> None:
        """Another snapshot looks after them."""
        await self._prober.stop()
        await self._poller.stop()

    async def close(self) -> None:
        """Nothing uses it any more."""
        await self.retire()
        await self._draft.discard()

    def _adopt(self, lasting: Lasting) -> None:
        catalog = self.settings.catalog
        lasting.shedding.watch(memory_share(self.settings.limits.memory_mib))
        self._adopt_keys(lasting)
        lasting.stores.keys.ring.changed = lambda: self._adopt_keys(lasting)
        metrics = lasting.telemetry.metrics
        models, backends = [one.name for one in catalog.models], [one.name for one in catalog.backends]
        priced = [one.name for one in catalog.models if one.price is not None]
        metrics.know(models, self.settings.profiles, backends, priced)
        if unstopped := [one.name for one in catalog.models if one.price is None or one.price.is_nothing]:
            lasting.telemetry.log.write("models.unpriced", models=unstopped)
        if shut_out := self.access.shut_out(lasting.stores.keys.ring.keys):
            lasting.telemetry.log.write("keys.shut_out", keys=shut_out[:NAMED], count=len(shut_out))
        metrics.refresh_with(lambda: publish(self.replicas, metrics.kept), of="replicas")

    def _adopt_keys(self, lasting: Lasting) -> None:
        """Have limits, budgets and metrics follow the keys that there are now."""
        keys = [*(key for _, key in self.settings.keys), *lasting.stores.keys.ring.keys]
        lasting.stores.limits.adopt(self.settings.limits.in_flight, keys)
        lasting.stores.budgets.adopt({key.id: key.budget for key in keys})
        lasting.telemetry.metrics.kept.know_keys(key.id for key in keys)


def create_router(settings: Settings, router_model: RouterModel | None) -> Router:
    """The router alone: it needs no backend."""
    versions = {"config": settings.version}
    if router_model is None:
        table = CandidateTable(settings.catalog, (), settings.scales)
        return Router(table, Learned(), settings.profiles, versions)
    learned = Learned(router_model.predictor, router_model.curve)
    table = CandidateTable(settings.catalog, router_model.predictor.models, settings.scales)
    return Router(table, learned, settings.profiles, versions | {"artifact": router_model.version})


def baseline_of(settings: Settings, router_model: RouterModel | None) -> Baseline | None:
    """What routing is compared with: the model that is set, the first of the default profile's order, or else the best
    single one where models were measured side by side; None where nothing says which."""
    by_name = {model.name: model for model in settings.catalog.models}
    order = settings.profiles[DEFAULT_PROFILE].order
    name = settings.baseline or (order[0] if order else None)
    if name is None and router_model is not None:
        name = router_model.curve.tabulate(settings.catalog.models).best_model
    return Baseline(by_name[name], predicted_quality) if name else None


def create_client(settings: Settings) -> UpstreamClient:
    keys = {backend: secret.reveal() for backend, secret in settings.backend_keys.items()}
    loopback = settings.listen.is_loopback
    return UpstreamClient(settings.catalog.backends, keys, settings.timeouts, allow_loopback=loopback)


def create_keys(settings: Settings, ring: Keys) -> Keys:
    return AllKeys(StaticKeys(settings.keys), ring)


def check_lasting(settings: Settings, before: Settings) -> None:
    """
    Raises:
        UsageError: something differs that only a restart can change.
    """
    kept = _lasting(before)
    for name, value in _lasting(settings).items():
        if value != kept[name]:
            raise UsageError(f"{settings.path}: {name}: a running gateway keeps this as it is; restart it instead")


def _lasting(settings: Settings) -> dict[str, object]:
    """What only a restart can change, by its name in the file."""
    names = ("listen", "admin_listen", "workers", "store", "state_dir", "pepper_file")
    return {
        **{name: getattr(settings, name) for name in names},
        "store_password_env": settings.store_password,
        "journal.keep_days": settings.journal.days,
        "journal.keep_records": settings.journal.records,
    }

"""The parent of several workers: it starts them on one port, and makes them look like one gateway.

How it works: each worker listens on a socket of its own at the same address, and the kernel deals connections out among
those that listen. One that ends gets no more of them, and another one is started in its place. What is asked of the
gateway goes to all workers: stops, drains, and reloads in two halves, so that all of them take a configuration over
or none does; one that does not answer is a no. The parent serves the admin listener itself: metrics are the workers'
together, with those of workers that have ended. Limits are in memory that all share (`store.shared_limits`).
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Coroutine, Mapping
from contextlib import closing
from typing import Any, cast

import uvloop

from app.admission.gate import Gate
from app.api import admin_plane, data_plane
from app.api.access import Access
from app.api.connection.doors import Doors
from app.assembly.first_key import begin_with_a_key
from app.assembly.generated_keys import GeneratedKeys, connected, watched_keys
from app.assembly.listeners import Listener, Signals, leave_no_core, listening_socket, shared_socket
from app.assembly.reload import rejected, rejection
from app.assembly.router_model import fingerprint
from app.assembly.snapshot import check_lasting, create_keys
from app.crew.channel import Channel
from app.crew.member import Member
from app.crew.worker import Post, as_json
from app.errors import ConfigRejected, UsageError
from app.gateway import Gateway
from app.settings import Settings, load_settings
from app.store.keys.issuer import Issuer
from app.store.limits.shared_limits import SharedLimits, Table
from app.telemetry import Telemetry
from app.telemetry.metrics import Metrics
from app.upstream.fleet.replica import name_of
from app.upstream.fleet.replicas import UnknownReplica

# How old readiness may be, and what is counted of a worker that is killed.
LOOK_EVERY_S = 1.0
# A worker that dies again and again is started after longer and longer.
RESTART_AFTER_S, RESTART_AFTER_AT_MOST_S, LIVED_LONG_S = 0.1, 5.0, 10.0
# Beyond what a worker may take to leave, before it is killed.
PATIENCE_S = 5.0


class Crew:
    """All workers, and what an operator may do to them."""

    def __init__(self, settings: Settings, workers: int, telemetry: Telemetry, keys: GeneratedKeys) -> None:
        self.settings, self._telemetry, self._keys = settings, telemetry, keys
        self.gate = Gate()
        self._members = [Member(number) for number in range(workers)]
        self._name = secrets.token_hex(8)
        self._table = Table.create(workers)
        # The parent's own number is nobody's: it only gives back.
        self._limits = SharedLimits(self._table, 0, settings.limits.in_flight, time.monotonic)
        self._ended = Metrics()
        self._out: dict[tuple[str, str], Mapping[str, Any]] = {}
        """Replicas that workers have taken out, as they told."""
        self._aside: set[str] = set()
        """Replicas that operators have out."""
        self._artifact = fingerprint(settings)
        """What workers run, or are to begin with."""
        self._stopping = False
        self._turn = asyncio.Lock()
        self._keepers: list[asyncio.Task[None]] = []
        self._starting: dict[Member, asyncio.TimerHandle] = {}
        self._errands: set[asyncio.Task[None]] = set()
        self.doors = self._doors(settings)

    async def start(self) -> None:
        """Return when all answer.

        Raises:
            UsageError: one of them cannot start; the message says why.
        """
        self._keepers = [asyncio.create_task(self._keep(member)) for member in self._members]
        await asyncio.gather(*(member.started.wait() for member in self._members))
        if failures := {member.failure for member in self._members if member.failure}:
            raise UsageError("\n".join(sorted(failures)))
        await asyncio.gather(*(member.look() for member in self._members))
        self._errand(self._look())

    async def stop(self, within_s: float, hurried: asyncio.Event, *, accept: bool) -> None:
        """Have all of them leave, and first serve for a while where they `accept`; who does not leave is killed."""
        self._stopping = True
        self._say("stop", accept)
        hurrying = asyncio.create_task(self._hurry(hurried))
        _, stuck = await asyncio.wait(self._keepers, timeout=within_s)
        if stuck:
            self._kill()
        hurrying.cancel()

    async def aclose(self) -> None:
        self._stopping = True
        self._kill()
        for task in tuple(self._errands):
            task.cancel()
        await asyncio.gather(*self._keepers, *self._errands, return_exceptions=True)

    @property
    def in_flight(self) -> int:
        return sum(member.in_flight for member in self._members)

    # What the admin plane asks of a gateway.

    @property
    def issuer(self) -> Issuer:
        return self._keys.issuer

    def ready(self) -> bool:
        """Whether a worker is."""
        return not self.gate.leaving and any(member.ready for member in self._members)

    @property
    def draining(self) -> bool:
        return self.gate.leaving

    async def metrics(self) -> bytes:
        await asyncio.gather(*(member.look() for member in self._members))
        together = Metrics()
        together.absorb(self._telemetry.metrics.snapshot())
        together.absorb(self._ended.snapshot(), ended=True)
        for member in self._members:
            together.absorb(member.counted)
        return together.render()

    async def reload(self) -> Mapping[str, Any]:
        """See `Live.reload`: all workers, or none."""
        async with self._turn:
            began_at = time.monotonic()
            try:
                settings, artifact = await self._prepare()
            except ConfigRejected as exc:
                self._say("discard")
                rejected(self._telemetry, exc)
                raise
            self.settings, self._artifact = settings, artifact
            self.doors.become(self._doors(settings))
            await asyncio.gather(*(member.commit(settings.version) for member in self._members))
            self._telemetry.metrics.config_applied.inc()
            seconds = round(time.monotonic() - began_at, 3)
            self._telemetry.log.write("config.applied", config=settings.version, seconds=seconds)
            return {"config": settings.version, "seconds": seconds}

    def leave(self) -> None:
        self._tell_all("leave", leaving=True)

    def stay(self) -> None:
        self._tell_all("stay", leaving=False)

    def _tell_all(self, what: str, *, leaving: bool) -> None:
        self.gate.leaving = leaving
        self._say(what)

    def set_aside(self, replica: str, *, aside: bool) -> list[str]:
        """See `Replicas.set_aside`."""
        known = {name_of(url) for backend in self.settings.catalog.backends for url in backend.urls}
        if replica not in known:
            raise UnknownReplica(replica, known)
        (self._aside.add if aside else self._aside.discard)(replica)
        self._say("aside" if aside else "back", replica)
        return sorted(self._aside & known)

    async def _prepare(self) -> tuple[Settings, str]:
        try:
            settings = await asyncio.to_thread(load_settings, self.settings.path)
            check_lasting(settings, self.settings)
            artifact = await asyncio.to_thread(fingerprint, settings)
        except UsageError as exc:
            raise rejection(str(exc).splitlines()) from exc
        answers = await asyncio.gather(*(member.prepare(settings.files) for member in self._members))
        if problems := dict.fromkeys(line for answer in answers for line in answer):
            raise rejection(list(problems))
        return settings, artifact

    def _doors(self, settings: Settings) -> Doors:
        access = Access(settings.catalog, settings.profiles)
        # Of a gateway the admin plane needs only whether it is ready, and whether it leaves.
        return Doors(
            create_keys(settings, self._keys.ring),
            access,
            cast("Gateway", self),
            self._telemetry,
            settings.limits.body_bytes,
        )

    # Workers.

    async def _keep(self, member: Member) -> None:
        """Have a worker at all times."""
        delay_s = RESTART_AFTER_S
        while not self._stopping:
            began_at, member.failure = time.monotonic(), None
            try:
                status = await self._run(member)
            except OSError as exc:
                status, member.failure = None, f"a worker cannot be started: {exc.strerror or exc}"
            if self._stopping:
                return
            if member.failure and not member.started.is_set():
                member.started.set()
                return
            self._bury(member, status)
            delay_s = RESTART_AFTER_S if time.monotonic() - began_at > LIVED_LONG_S else 2 * delay_s
            await asyncio.sleep(min(delay_s, RESTART_AFTER_AT_MOST_S))

    async def _run(self, member: Member) -> int:
        """One process, from its start to its end; returns its exit status.

        Raises:
            OSError: the system does not let one start: it has no memory, no descriptor or no process to spare.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, shared_socket(self.settings.listen) as listener:
                descriptors = (listener.fileno(), theirs.fileno(), self._table.descriptor)
                post = Post(str(self.settings.path), member.number, len(self._members), *descriptors, self._name)
                # In a session of its own: Ctrl-C is the parent's to pass on.
                member.process = await asyncio.create_subprocess_exec(
                    *post.arguments, pass_fds=descriptors, start_new_session=True
                )
            member.channel = await Channel.over(ours, lambda what, value: self._answer(member, what, value))
            self._starting[member] = asyncio.get_running_loop().call_later(
                member.patience.start_s, self._give_up, member
            )
            status = await member.process.wait()
            self._starting[member].cancel()
            await member.channel.aclose()
        member.process = member.channel = None
        return status

    def _give_up(self, member: Member) -> None:
        """It hangs before it answers: another one may not."""
        member.failure = f"a worker did not start within {member.patience.start_s:g} s"
        member.kill()

    async def _answer(self, member: Member, what: str, value: Any) -> Any:
        """What a worker asks."""
        if what == "files":
            member.version = self.settings.version
            return as_json(self.settings.files) | {"artifact": self._artifact}
        if what == "failed":
            member.failure = str(value)
        elif what == "changed":
            self._changed(member, value)
        elif what == "remembered":
            self._pass_on(member, what, value)
        elif what == "started":
            self._starting[member].cancel()
            member.failure = None
            member.started.set()
            self._errand(self._bring_up_to_date(member))
            if self._stopping:
                member.tell("stop")
        return None

    async def _bring_up_to_date(self, member: Member) -> None:
        """Tell one that has just started what was told to the others meanwhile."""
        async with self._turn:
            if member.version != self.settings.version:
                if problems := await member.prepare(self.settings.files):
                    rejected(self._telemetry, rejection(problems))
                await member.commit(self.settings.version)
        if self.gate.leaving:
            member.tell("leave")
        for change in self._out.values():
            member.tell("changed", change)
        for replica in self._aside:
            member.tell("aside", replica)

    def _changed(self, teller: Member, change: Mapping[str, Any]) -> None:
        """One has noticed something about a replica: tell the others."""
        replica = (change["backend"], change["url"])
        if change["what"] in ("out", "dead"):
            self._out[replica] = change
        elif change["what"] == "back":
            self._out.pop(replica, None)
        self._pass_on(teller, "changed", change)

    def _pass_on(self, teller: Member, what: str, value: Any) -> None:
        for member in self._members:
            if member is not teller:
                member.tell(what, value)

    def _bury(self, member: Member, status: int | None) -> None:
        """Keep what it had counted, and give back what it had taken; no `status` where it could not be started."""
        self._ended.absorb(member.counted, ended=True)
        member.counted, member.ready, member.in_flight = {}, False, 0
        self._limits.forget(member.number)
        self._telemetry.metrics.worker_deaths.inc()
        self._telemetry.log.write("worker.died", number=member.number, status=status, why=member.failure)

    async def _look(self) -> None:
        silent: set[Member] = set()
        while True:
            await asyncio.gather(*(member.look() for member in self._members))
            before, silent = silent, {member for member in self._members if member.is_silent}
            for member in silent - before:
                self._telemetry.log.write("worker.silent", number=member.number)
            await asyncio.sleep(LOOK_EVERY_S)

    def _errand(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _hurry(self, hurried: asyncio.Event) -> None:
        await hurried.wait()
        self._say("hurry")

    def _say(self, what: str, value: Any = None) -> None:
        for member in self._members:
            member.tell(what, value)

    def _kill(self) -> None:
        for member in self._members:
            member.kill()


def serve(settings: Settings, workers: int) -> None:
    """Have so many workers answer until SIGTERM or SIGINT; see `app.main.serve`.

    Raises:
        UsageError: something cannot be opened; the message is one line.
    """
    leave_no_core()  # nor do the workers, which inherit it
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, workers))


async def _serve(settings: Settings, workers: int) -> None:
    telemetry = Telemetry()
    # Workers would share the port with whoever else listens there, and never know.
    listening_socket(settings.listen).close()
    with closing(telemetry.log), listening_socket(settings.admin_listen) as admin_socket:
        async with connected(settings) as redis, watched_keys(settings, redis) as keys:
            keys.heard_by(telemetry.log)
            await begin_with_a_key(settings, keys, telemetry.log)
            crew = Crew(settings, workers, telemetry, keys)
            try:
                await _lead(crew, admin_socket, telemetry)
            finally:
                await crew.aclose()
        telemetry.log.write("gateway.stopped")


async def _lead(crew: Crew, admin_socket: socket.socket, telemetry: Telemetry) -> None:
    admin = Listener(admin_plane(crew.doors, data_plane(crew.doors), crew))
    with Signals(crew) as signals:
        await crew.start()
        await admin.open(admin_socket)
        listen, admin_listen = str(crew.settings.listen), str(crew.settings.admin_listen)
        telemetry.log.write("gateway.started", listen=listen, admin=admin_listen, workers=len(crew._members))
        accept = await signals.asked_to_stop()
        telemetry.log.write("gateway.draining", in_flight=crew.in_flight)
        crew.gate.leaving = True
        limits = crew.settings.limits
        within_s = limits.accept_s + limits.drain_s + PATIENCE_S
        await crew.stop(within_s, signals.hurried, accept=accept)
        admin.refuse()
        admin.let_go()
        await admin.aclose()

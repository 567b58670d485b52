"""A limit on a block that awaits."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import closing, nullcontext

import pytest

from app.upstream.http.deadline import HELD_UP_S, CutShort, Deadline, Within, missed, out_of_time
from tests.fakes.clock import FakeClock


def test_only_a_callers_own_deadline_is_missed() -> None:
    own, total = (Deadline(0.0, FakeClock(), is_callers=own).over("over") for own in (True, False))
    assert [missed(error) for error in (own, total, CutShort("no"), None)] == [True, False, False, False]
    assert [out_of_time(error) for error in (own, total, CutShort("no"), None)] == [True, True, False, False]


async def test_a_block_that_is_done_in_time_is_left_alone() -> None:
    with Within(60):
        await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_block_that_is_not_ends_with_a_timeout() -> None:
    with pytest.raises(TimeoutError), Within(0.0):
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task
    assert task.cancelling() == 0


async def test_errors_of_the_block_pass_through() -> None:
    with pytest.raises(KeyError), Within(60):
        raise KeyError


async def test_limits_can_be_nested_and_the_one_that_is_over_is_told() -> None:
    async def inner() -> str:
        try:
            with Within(60):
                await asyncio.Event().wait()
        except TimeoutError:
            return "inner"
        return "none"

    with pytest.raises(TimeoutError), Within(0.0):
        await inner()


async def test_who_cancels_the_task_is_obeyed_even_when_time_is_over_as_well() -> None:
    inside = asyncio.Event()

    async def work() -> None:
        with Within(0.0):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_only_tasks_can_be_limited() -> None:
    raised: list[BaseException] = []

    def outside() -> None:
        try:
            with Within(1):
                raise AssertionError("entered")
        except RuntimeError as exc:
            raised.append(exc)

    asyncio.get_running_loop().call_soon(outside)
    await asyncio.sleep(0)
    assert "a limit needs a task" in str(raised[0])


async def stand_still(there: socket.socket | None) -> None:
    """Longer than time is allowed for; something comes meanwhile, or not."""
    await asyncio.sleep(0)
    if there:
        there.send(b"x")
    time.sleep(2 * HELD_UP_S)


@pytest.mark.parametrize("came", [True, False])
async def test_what_had_come_while_the_process_stood_still_is_in_time(came: bool) -> None:
    """An event loop looks at its timers first, and finds them over, before it reads what came long ago."""
    here, there = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=here)

    async def read() -> bytes:
        with Within(0.02):
            asyncio.get_running_loop().create_task(stand_still(there if came else None))
            return await reader.readexactly(1)

    with there, closing(writer), nullcontext() if came else pytest.raises(TimeoutError):
        assert await read() == b"x"

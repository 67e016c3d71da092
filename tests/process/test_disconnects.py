"""Hundreds of moments to leave or to stop at: whichever it is, one answer is saved, and no model goes on for nobody."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from tests.process.models import Models, words
from tests.process.raw_client import LEAVINGS, Client, request
from tests.process.service import Process

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

POOLED_FILES = 30  # more than the store's pool of connections has open

LIFETIMES = pytest.mark.parametrize("compare_mode", [False, True], ids=["normal", "compare"])
SERVED = pytest.mark.parametrize("service", ["app.py", "gunicorn"], indirect=True, scope="module")


async def in_parallel(work: Callable[[int], Awaitable[None]], numbers: Iterable[int], *, at_once: int) -> None:
    room = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with room:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for number in numbers:
            group.create_task(one(number))


def check(answer: dict[str, Any], *, seen: str, said: str, compare_mode: bool) -> str:
    """Check *answer* of a client that had *seen* this much of what the model has *said*; return how it ended."""
    assert said.startswith(answer["content"])
    assert answer["content"].startswith(seen)
    ending = (answer["status"], answer["stop_reason"])
    allowed = {("done", None), ("stopped", "user_stop")} | (
        {("stopped", "client_disconnect")} if compare_mode else set()
    )
    assert ending in allowed
    assert ending != ("done", None) or answer["content"] == said
    return str(answer["stop_reason"] or "done")


async def check_rest(service: Process, models: Models, files: int) -> None:
    """Nothing is left open: no run, no connection to a model or a client, no file."""
    await models.all_closed()
    assert await service.metric("odysseus_runs") == 0
    assert await service.metric("odysseus_subscribers") == 0
    assert service.open_files <= files + POOLED_FILES


@SERVED
@LIFETIMES
async def test_leave_after_any_byte(service: Process, models: Models, compare_mode: bool) -> None:
    script, said = words(8, pause_s=0.003)
    whole = await service.chat(models.plan(script), compare_mode=compare_mode)
    await whole.read_all()
    whole.close()
    endings: Counter[str] = Counter()
    files = service.open_files

    async def leave_after(count: int) -> None:
        client = await service.chat(prompt := models.plan(script), compare_mode=compare_mode)
        await client.read_bytes(count)
        client.leave(LEAVINGS[count % 3])
        [answer] = await service.settled(client.session_id)
        client.close()
        endings[check(answer, seen=client.text, said=said, compare_mode=compare_mode)] += 1
        await models.closed(prompt)
        assert len(models.asked(prompt)) <= 1

    await in_parallel(leave_after, range(0, len(whole.body), 20), at_once=24)
    assert set(endings) == ({"done", "client_disconnect"} if compare_mode else {"done"})
    await check_rest(service, models, files)


Act = Callable[[Process, Client, str], Awaitable[None]]


async def stop(service: Process, client: Client, session_id: str) -> None:
    answer = await service.stop(session_id)
    if answer.json["stopped"]:  # then it is saved, and the same for everybody
        [saved] = (await service.messages(session_id))[1:]
        assert (answer.json["status"], answer.json["chars"]) == (saved["status"], len(saved["content"]))
        assert answer.json["message_id"] == saved["id"]


async def leave(service: Process, client: Client, session_id: str) -> None:
    client.leave(random.choice(LEAVINGS))


async def leave_and_stop(service: Process, client: Client, session_id: str) -> None:
    await leave(service, client, session_id)
    await stop(service, client, session_id)


@pytest.mark.parametrize("service", ["app.py"], indirect=True, scope="module")
@LIFETIMES
@pytest.mark.parametrize("act", [stop, leave, leave_and_stop])
async def test_act_at_any_time(service: Process, models: Models, compare_mode: bool, act: Act) -> None:
    """From the first byte of the request on to well after the answer's end."""
    script, said = words(4, pause_s=0.002)
    since = time.monotonic()
    whole = await service.chat(models.plan(script), compare_mode=compare_mode)
    await whole.read_all()
    whole.close()
    lasts_s = time.monotonic() - since
    turns: list[tuple[str, str, Client]] = []
    files = service.open_files

    async def act_at(moment: int) -> None:
        session_id, prompt = await service.session(), models.plan(script)
        body = {"message": prompt, "session_id": session_id, "compare_mode": compare_mode}
        client = await service.connect()
        await client.send(request("POST", "/api/chat_stream", body))
        await asyncio.sleep(lasts_s * (10 if moment > 32 else moment / 16))
        await act(service, client, session_id)
        turns.append((session_id, prompt, client))

    await in_parallel(act_at, range(36), at_once=3)
    endings: Counter[str] = Counter()
    for session_id, prompt, client in turns:
        if not models.asked(prompt) and not await service.messages(session_id):
            endings["nothing happened"] += 1
            continue
        [answer] = await service.settled(session_id)
        endings[check(answer, seen="", said=said, compare_mode=compare_mode)] += 1
        assert len(models.asked(prompt)) <= 1
        client.close()
    assert endings["done"]  # some came after the end, and some before it
    assert len(endings) > 1 or (act is leave and not compare_mode)
    await check_rest(service, models, files)

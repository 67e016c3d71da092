"""`odysseus chat` over connections that break, to a service that dies, and stopped with Ctrl-C."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

import pytest

from tests.process.commands import Proxy, chatting, proxied
from tests.process.models import Cue, Models, words
from tests.process.raw_client import until
from tests.process.service import Service, check_books, serving

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

SETTINGS = {"replay_grace_s": 0.1}
"""Of the module's service: what has ended is a snapshot at once."""


# Connections that break


async def test_a_connection_that_is_cut_again_and_again(service: Service, models: Models) -> None:
    cue = Cue("0 ")
    async with proxied(service) as proxy, chatting(proxy, prompt := models.plan(cue)) as command:
        for number in range(1, 5):
            await command.said(lambda seen: seen.out == cue.said)
            proxy.cut()
            cue.say(f"{number} ")
        await command.said(lambda seen: seen.out == cue.said)
        cue.end()
        assert await command.wait() == 0
        assert command.out == "0 1 2 3 4 \n"
        assert command.err.count("connection lost") == 4
        assert proxy.opened == 5
    assert len(models.asked(prompt)) == 1


async def test_a_request_that_is_cut_before_its_answer(service: Service, models: Models) -> None:
    """It has been taken: the next one must not be another."""
    async with proxied(service) as proxy:
        proxy.answers.clear()
        async with chatting(proxy, prompt := models.plan(cue := Cue("Hello"))) as command:
            await models.exchange_of(prompt)
            proxy.cut()
            proxy.answers.set()
            await command.said(lambda seen: seen.out == "Hello")
            cue.end()
            assert await command.wait() == 0
    assert command.out == "Hello\n"
    assert len(models.asked(prompt)) == 1
    assert len(await service.settled(command.session_id)) == 1


@pytest.mark.parametrize("before", ["", "Hel"])
async def test_a_run_that_ended_meanwhile(service: Service, models: Models, before: str) -> None:
    """Its frames are gone: the stored answer stands in for them, and only what was missed of it is printed."""
    cue = Cue(*([before] if before else []))
    async with proxied(service) as proxy:
        if not before:
            proxy.answers.clear()
        async with chatting(proxy, prompt := models.plan(cue)) as command:
            await models.exchange_of(prompt)
            await command.said(lambda seen: seen.out == before)
            proxy.cut(refuse=True)
            proxy.answers.set()
            cue.say("lo world")
            cue.end()
            [session] = (await service.get("/api/sessions", limit="1")).json["sessions"][:1]
            await until(lambda: replayed(service, session["id"]))
            proxy.accept()
            assert await command.wait() == 0
    assert command.out == f"{before}lo world\n"
    assert len(models.asked(prompt)) == 1


async def replayed(service: Service, session_id: str) -> bool:
    """Return whether the session's run is only stored by now."""
    client = await service.resume(session_id)
    await client.read_all()
    return bool(client.payloads[0]["type"] == "snapshot")


async def test_the_service_is_killed_and_started_again(models: Models, tmp_path: Path) -> None:
    script, said = words(1000, pause_s=0.02)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with serving(models, tmp_path, port=port) as first, chatting(first, models.plan(script)) as command:
        await command.said(lambda seen: len(seen.out) > 300)
        first.kill()
        await first.wait()
        await command.said(lambda seen: "connection lost (" in seen.err)
        async with serving(models, tmp_path, port=port) as second:
            assert await command.wait() == 1
            [answer] = await second.settled(command.session_id)
    text = command.out.removesuffix("\n")
    assert len(text) > 300
    assert said.startswith(text)
    assert text.startswith(answer["content"])
    assert "interrupted (node_lost), session " in command.err
    check_books(tmp_path)


async def test_a_service_that_stays_away(models: Models, tmp_path: Path) -> None:
    """It can be left at any moment, also while nobody is there to be asked for a stop."""
    async with serving(models, tmp_path) as service, chatting(service, models.plan(Cue("Hello"))) as command:
        await command.said(lambda seen: seen.out == "Hello")
        service.kill()
        await command.said(lambda seen: "connection lost (" in seen.err)
        command.process.send_signal(signal.SIGINT)
        await command.said(lambda seen: "stopping" in seen.err)
        command.process.send_signal(signal.SIGINT)
        assert await command.wait() == 130
        assert re.search(r"left run run_\w+ of session ses_\w+, which may still be running\n$", command.err)


# Ctrl-C


async def test_ctrl_c_stops_the_run(service: Service, models: Models) -> None:
    async with chatting(service, prompt := models.plan(Cue("Hello"))) as command:
        await command.said(lambda seen: seen.out == "Hello")
        command.process.send_signal(signal.SIGINT)
        assert await command.wait() == 130
    await models.closed(prompt)
    assert command.out == "Hello\n"
    assert re.fullmatch(
        r"stopping; Ctrl-C again leaves at once\nstopped \(user_stop\), session ses_\w+, .*\n", command.err
    )
    [answer] = await service.settled(command.session_id)
    assert (answer["status"], answer["stop_reason"], answer["content"]) == ("stopped", "user_stop", "Hello")


async def test_ctrl_c_before_the_answer_has_begun(service: Service, models: Models) -> None:
    """Nobody knows the session yet that is to be stopped."""
    async with proxied(service) as proxy:
        proxy.answers.clear()
        async with chatting(proxy, prompt := models.plan(Cue("Hello"))) as command:
            await models.exchange_of(prompt)
            command.process.send_signal(signal.SIGINT)
            await command.said(lambda seen: "stopping" in seen.err)
            proxy.answers.set()
            assert await command.wait() == 130
    await models.closed(prompt)
    assert "stopped (user_stop), session " in command.err


async def test_ctrl_c_while_the_connection_is_lost(service: Service, models: Models) -> None:
    async with proxied(service) as proxy, chatting(proxy, prompt := models.plan(Cue("Hello"))) as command:
        await command.said(lambda seen: seen.out == "Hello")
        proxy.cut(refuse=True)
        await command.said(lambda seen: "connection lost" in seen.err)
        refused = proxy.opened
        command.process.send_signal(signal.SIGINT)
        await until(lambda: opened(proxy, refused + 2))
        proxy.accept()
        assert await command.wait() == 130
    await models.closed(prompt)
    assert "stopped (user_stop), session " in command.err


async def opened(proxy: Proxy, count: int) -> bool:
    return proxy.opened >= count


async def test_ctrl_c_stops_this_run_alone(service: Service, models: Models) -> None:
    """A stop that comes late must not hit the session's next run."""
    cue, next_cue = Cue("Hello"), Cue("Next")
    async with proxied(service) as proxy, chatting(proxy, models.plan(cue)) as command:
        await command.said(lambda seen: seen.out == "Hello")
        proxy.answers.clear()
        cue.end()
        [session] = (await service.get("/api/sessions")).json["sessions"][:1]
        await service.settled(session["id"])
        client = await service.chat(models.plan(next_cue), session_id=session["id"])
        command.process.send_signal(signal.SIGINT)
        await until(lambda: holding(proxy, 2))  # the run's end, and the answer to the stop
        proxy.answers.set()
        assert await command.wait() == 130
        next_cue.end()
        await client.read_all()
    assert client.payloads[-1]["status"] == "done"


async def holding(proxy: Proxy, count: int) -> bool:
    return proxy.holding == count


async def test_a_second_ctrl_c_leaves_at_once(service: Service, models: Models) -> None:
    cue = Cue("Hello")
    async with proxied(service) as proxy, chatting(proxy, models.plan(cue)) as command:
        await command.said(lambda seen: seen.out == "Hello")
        proxy.cut(refuse=True)
        for said in ("stopping", "left run"):
            command.process.send_signal(signal.SIGINT)
            await command.said(lambda seen, said=said: said in seen.err)  # type: ignore[misc]
        assert await command.wait() == 130
        cue.end()
        [answer] = await service.settled(command.session_id)
    assert (answer["status"], answer["content"]) == ("done", "Hello")

"""`odysseus chat` as it is called: a process of its own, with pipes and at a terminal, against the real service."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import socket
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from odysseus.transcript import clean
from tests.fake_upstream import Exchange, chunk, in_turn, say, status, wants
from tests.process.commands import CLEAN, ODYSSEUS, Command, Terminal, at_terminal, called, chatting
from tests.process.models import Cue, Models
from tests.process.raw_client import until
from tests.process.service import Service

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

SETTINGS = {"tools_need_approval": "calculator"}

SUM = ("c1", "calculator", '{"expression": "17 * 23"}')


# In peace


async def test_it_streams(service: Service, models: Models) -> None:
    cue = Cue("Hello")
    async with chatting(service, models.plan(cue)) as command:
        await command.said(lambda seen: seen.out == "Hello")
        cue.say(" wörld")
        await command.said(lambda seen: seen.out == "Hello wörld")
        cue.end()
        assert await command.wait() == 0
    assert command.out == "Hello wörld\n"
    assert re.fullmatch(r"done, session ses_\w+, \d+\.\d s\n", command.err)
    assert [answer["content"] for answer in await service.settled(command.session_id)] == ["Hello wörld"]
    again = models.plan(say("Hello again.\n"))
    code, out, err = await called(service, again, "--session", command.session_id, "--model", "n", "--system", "Short.")
    assert (code, out) == (0, "Hello again.\n")
    assert f"session {command.session_id}, 3 + 1 tokens, " in err
    assert len(await service.settled(command.session_id, turns=2)) == 2
    [asked] = models.asked(again)
    assert asked.body["model"] == "n"
    assert asked.body["messages"][0] == {"role": "system", "content": "Short."}


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_the_message_comes_from_stdin(service: Service, models: Models, end: bytes) -> None:
    prompt = models.plan(say("Hello"))
    code, out, err = await called(service, "-", stdin=prompt.encode() + end)
    assert (code, out) == (0, "Hello\n"), err
    assert len(models.asked(prompt)) == 1


async def test_text_that_was_not_meant_for_a_terminal(service: Service, models: Models) -> None:
    """A pipe gets what the model said, and errors are words."""
    code, out, _ = await called(service, models.plan(say("a\x1b[2J\x9b\r\n")))
    assert (code, out) == (0, "a\x1b[2J\x9b\r\n")


# What can't be


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hello", "--model", "nope"], "odysseus: model: 'nope' is not one of m, n\n"),
        (["hello", "--session", "ses_nope"], "odysseus: no such session\n"),
        ([""], "odysseus: message: String should have at least 1 character\n"),
        (["\udcff"], "odysseus: the message isn't UTF-8\n"),
        ([], "the following arguments are required: MESSAGE\n"),
        (["hello", "--url", "localhost"], "not the URL of a service, such as http://127.0.0.1:8080: 'localhost'\n"),
        (["hello", "--url", "http://h:x"], "not the URL of a service, such as http://127.0.0.1:8080: 'http://h:x'\n"),
        (["hello", "--url", "http://h/?a"], "not the URL of a service, such as http://127.0.0.1:8080: 'http://h/?a'\n"),
        (["hello", "--token-file", "nowhere"], "nowhere can't be read\n"),
        (["hello", "--token-file", "setup.cfg"], "setup.cfg doesn't hold a token\n"),
    ],
)
async def test_what_is_refused(service: Service, arguments: list[str], said: str) -> None:
    code, out, err = await called(service, *arguments)
    assert (code, out) == (2, "")
    assert err.endswith(said)
    assert "Traceback" not in err


async def test_a_session_that_is_busy(service: Service, models: Models) -> None:
    client = await service.chat(models.plan(cue := Cue("Hello")))
    code, _, err = await called(service, "hello", "--session", client.session_id)
    assert code == 2
    assert f"the session is busy with run {client.run_id}" in err
    cue.end()
    await client.read_all()


async def test_no_service() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        code, out, err = await called(Service(port), "hello")
    address = f"http://127.0.0.1:{port}"
    assert (code, out) == (1, "")
    assert err == f"odysseus: Connection refused; is the service running at {address}?\n"


@pytest.mark.parametrize(
    ("status_line", "content_type", "body", "said"),
    [
        ("200 OK", "text/html", "<h1>Hello</h1>", "answers, but not as Odysseus does: text/html"),
        ("404 Not Found", "text/html", "<h1>No</h1>", "answered 404"),
        ("301 Moved", "text/html", "", "answered 301"),
        ("502 Bad Gateway", "text/html", "<h1>No</h1>", "answered 502"),
        ("200 OK", "text/event-stream", "data: hello\n\n", "sends can't be read: "),
        ("204 No Content", "text/html", "", "the service has nothing more of run run_"),
        (
            "401 Unauthorized",
            "application/json",
            '{"error": {"code": "unauthorized", "message": "no \\u001b[2J"}}',
            "no \\x1b[2J; --token-file names the file of a token",
        ),
    ],
)
async def test_another_service(status_line: str, content_type: str, body: str, said: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status_line}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body.encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        code, out, err = await called(Service(server.sockets[0].getsockname()[1]), "hello")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("odysseus: ")
    assert said in err


async def test_the_token_is_sent(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    (tmp_path / "token").write_text("sesame-0123\n")
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        service = Service(server.sockets[0].getsockname()[1])
        _, _, err = await called(service, "hello", "--token-file", str(tmp_path / "token"))
    assert b"\r\nAuthorization: Bearer sesame-0123\r\n" in heads[0]
    assert "sesame" not in err


async def test_an_answer_that_fails(service: Service, models: Models) -> None:
    code, out, err = await called(service, models.plan(status(400)))
    assert (code, out) == (1, "")
    assert err.splitlines()[0] == "odysseus: the model server answered 400 (upstream_status)"
    assert err.splitlines()[1].startswith("error (upstream_error), session ses_")


async def test_nobody_reads_any_more(service: Service, models: Models) -> None:
    cue = Cue("Hello")
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(ODYSSEUS, "chat", "--url", f"http://127.0.0.1:{service.port}", prompt := models.plan(cue)),
        stdout=writing,
        stderr=PIPE,
        env=CLEAN,
    )
    os.close(writing)
    command = Command(process)
    await models.exchange_of(prompt)
    os.close(reading)
    cue.say(" world")
    assert await command.wait() == 1
    assert re.fullmatch(r"odysseus: stdout: Broken pipe; left run \w+ of session ses_\w+, which goes on\n", command.err)
    cue.end()
    [answer] = await service.settled(command.session_id)
    assert (answer["status"], answer["content"]) == ("done", "Hello world")


# Tools and terminals


async def test_tools_are_lines_on_stderr(service: Service, models: Models) -> None:
    turn = in_turn(wants(("c1", "current_time", '{"timezone": "Mars"}')), say("I don't know."))
    code, out, err = await called(service, models.plan(turn), "--agent")
    assert (code, out) == (0, "I don't know.\n")
    call, result, _ = err.splitlines()
    assert call == 'current_time({"timezone":"Mars"})'
    assert result.startswith("current_time failed: ")


async def test_an_approval_that_nobody_can_be_asked_for(service: Service, models: Models) -> None:
    """It says how to give it; what it says works."""
    turn = in_turn(wants(SUM), say("391"))
    async with chatting(service, models.plan(turn), "--agent") as command:
        await command.said(lambda seen: seen.err.count("\n") == 3)
        _, asks, curl = command.err.splitlines()
        assert asks.startswith('a tool waits for approval: allow calculator({"expression":"17 * 23"})?')
        program, url, header, kind, data, body = shlex.split(curl)
        assert (program, header, kind, data) == ("curl", "-H", "Content-Type: application/json", "-d")
        path = url.removeprefix(f"http://127.0.0.1:{service.port}")
        assert (await service.post(path, json.loads(body))).status == 200
        assert await command.wait() == 0
    assert (command.out, command.err.splitlines()[3]) == ("391\n", "calculator: 391")


@pytest.mark.parametrize(
    ("typed", "said"),
    [("what?\ny\n", "calculator: 391"), ("yes\n", "calculator: 391"), ("n\n", "calculator failed: denied by the user")],
)
async def test_an_approval_at_a_terminal(service: Service, models: Models, typed: str, said: str) -> None:
    turn = in_turn(wants(SUM), say("Well."))
    async with at_terminal(service, models.plan(turn), "--agent") as (terminal, command):
        for number, line in enumerate(typed.splitlines(), start=1):
            await until_count(terminal, 'allow calculator({"expression":"17 * 23"})? [y/n] ', number)
            terminal.type(f"{line}\n")
        await terminal.shows(said)
        await terminal.shows("Well.\n")
        assert await command.wait() == 0


async def until_count(terminal: Terminal, text: str, count: int) -> None:
    async def look() -> bool:
        return terminal.seen.count(text) == count

    await until(look)


async def test_an_approval_that_somebody_else_gives(service: Service, models: Models) -> None:
    turn = in_turn(wants(SUM), say("Well."))
    async with at_terminal(service, models.plan(turn), "--agent") as (terminal, command):
        await terminal.shows("[y/n] ")
        [session] = (await service.get("/api/sessions")).json["sessions"][:1]
        [waiting] = (await service.status(session["id"]))["approvals"]
        body = {"call_id": waiting["call_id"], "decision": "deny", "reason": "not today"}
        assert (await service.post(f"/api/chat/approve/{session['id']}", body)).status == 200
        await terminal.shows("[y/n] \n\x1b[2mcalculator failed: denied: not today\x1b[0m\nWell.\n")
        assert await command.wait() == 0


async def test_what_a_terminal_would_obey_is_not_shown(service: Service, models: Models) -> None:
    evil = "a\x1b]52;c;aGk=\x07b\x9b2Jc\x08\x7f"

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(chunk(reasoning=evil))
        await exchange.send(chunk(evil))
        await exchange.send(chunk(finish_reason="stop"))
        await exchange.send(b"data: [DONE]\n\n")
        await exchange.end()

    async with at_terminal(service, models.plan(script)) as (terminal, command):
        await terminal.shows("done, session")
        assert await command.wait() == 0
    own = {"\x1b[2m", "\x1b[0m"}
    assert set(re.findall(r"\x1b.{3}", terminal.seen)) == own
    assert clean(terminal.seen).startswith("[2ma]52;c;aGk=b2Jc[0m\na]52;c;aGk=b2Jc\n")
    assert not set(terminal.seen) & {chr(c) for c in (*range(9), *range(11, 27), *range(28, 32), *range(127, 160))}

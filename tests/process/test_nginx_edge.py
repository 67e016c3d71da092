"""What passes through `deploy/nginx.conf` and what doesn't: headers, bodies, internal paths, names, failures."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from odysseus.settings import Settings
from tests.process.nginx import FROM_ANYWHERE, Nginx, check_error, in_front_of
from tests.process.origin import Origin
from tests.process.raw_client import Client, request
from tests.process.service import Answer, Process
from tests.waiting import soon

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

PROTOCOLS = pytest.mark.parametrize("protocol", ["h1", "h2"])

MAX_BODY_BYTES = Settings.model_fields["max_body_bytes"].default


@asynccontextmanager
async def before_nobody() -> AsyncIterator[Nginx]:
    with socket.socket() as taken:  # bound, so that nobody else gets the port, and not listening
        taken.bind(("127.0.0.1", 0))
        async with in_front_of(taken.getsockname()[1]) as nginx:
            yield nginx


# What the service hears


@PROTOCOLS
@pytest.mark.parametrize("path", ["/", "/api/sessions", "/healthz"])
async def test_what_a_client_says_of_itself_is_not_believed(protocol: str, path: str) -> None:
    lies = {
        "X_Forwarded_For": "203.0.113.6",
        "X_Forwarded_Proto": "gopher",
        "X_Forwarded_Host": "evil.example",
        "X_Forwarded_User": "root",
        "X_Real_IP": "203.0.113.6",
        "Forwarded": "for=203.0.113.6",
    }
    kept = {"Authorization": "Bearer sesame", "Cookie": "a=b", "Last_Event_ID": "r.7", "Origin": "https://odysseus"}
    async with Origin() as origin, in_front_of(origin.port) as nginx:
        far = nginx.h1() if protocol == "h1" else nginx.h2()
        assert (await far.get(path, **lies, **kept)).status == 200
    assert origin.heads[0].startswith(f"GET {path} HTTP/1.1\r\n")
    assert origin.header("X-Forwarded-For") == ["127.0.0.1"]
    assert origin.header("X-Forwarded-Proto") == ["https"]
    assert origin.header("Host") == ["odysseus"]
    for name in ("X-Forwarded-Host", "X-Forwarded-User", "X-Real-IP", "Forwarded", "Connection"):
        assert origin.header(name) == []
    for name, value in kept.items():
        assert origin.header(name.replace("_", "-")) == [value]


@pytest.mark.parametrize(
    "line", ["X_Forwarded_User: root", "X-Forwarded-User : root", "x-forwarded-user:root\r\nX-FORWARDED-USER: root"]
)
async def test_a_header_that_is_spelled_differently(line: str) -> None:
    async with Origin() as origin, in_front_of(origin.port) as nginx:
        client = await nginx.h1().connect()
        await client.send(f"GET /api/x HTTP/1.1\r\nHost: odysseus\r\n{line}\r\n\r\n".encode())
        await client.read_head()
    assert not any("root" in head for head in origin.heads)


async def test_the_name_is_kept_with_its_port() -> None:
    async with Origin() as origin, in_front_of(origin.port) as nginx:
        client = await nginx.h1().connect()
        await client.send(f"GET /api/x HTTP/1.1\r\nHost: odysseus:{nginx.port}\r\n\r\n".encode())
        assert await client.read_head() == 200
    assert origin.header("Host") == [f"odysseus:{nginx.port}"]


async def test_connections_to_the_service_are_kept() -> None:
    async with Origin() as origin, in_front_of(origin.port) as nginx:
        client = await nginx.h1().connect()
        for _ in range(3):
            await client.send(request("GET", "/api/sessions"))
            await client.read_head()
            await client.read_all()
    assert (len(origin.heads), origin.connections) == (3, 1)


@PROTOCOLS
async def test_nothing_is_taken_for_a_client_that_reads_nothing(protocol: str) -> None:
    """Also of a stream that doesn't ask for it by `X-Accel-Buffering: no`."""
    stuck = asyncio.Event()

    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            writer.write(b"100000\r\n" + b"x" * 0x100000 + b"\r\n")
            try:
                async with asyncio.timeout(1):
                    await writer.drain()
            except TimeoutError:
                stuck.set()
                await asyncio.Event().wait()
        writer.close()

    async with Origin(flood) as origin, in_front_of(origin.port) as nginx:
        far = nginx.h1() if protocol == "h1" else nginx.h2()
        await far.open("GET", "/api/chat/resume/x", receive_buffer=4096)
        await soon(stuck.wait())


async def test_what_is_compressed() -> None:
    async def script(writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2000\r\n\r\n"
        writer.write(head + b'"'.ljust(1999) + b'"')

    async with Origin(script) as origin, in_front_of(origin.port) as nginx:
        asked = {path: await nginx.h1().open("GET", path, Accept_Encoding="gzip") for path in ("/", "/api/sessions")}
        assert {path: client.headers.get("content-encoding") for path, client in asked.items()} == {
            "/": "gzip",
            "/api/sessions": None,
        }


@pytest.mark.parametrize(("method", "times"), [("GET", 2), ("POST", 1)])
async def test_a_post_is_never_sent_twice(method: str, times: int) -> None:
    """It has arrived, and its answer is lost: it may have started a run. A GET can be asked elsewhere."""

    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with (
        Origin(hang_up) as one,
        Origin(hang_up) as other,
        in_front_of(one.port, other.port) as nginx,
    ):
        answer = await nginx.h1().call(method, "/api/chat_stream", {} if method == "POST" else None)
    check_error(answer, 502, "unavailable", "5")
    assert len(one.heads + other.heads) == times


# Bodies


@pytest.mark.parametrize("size", [MAX_BODY_BYTES, MAX_BODY_BYTES + 1])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_largest_body(size: int, chunked: bool) -> None:
    async with Origin() as origin, in_front_of(origin.port) as nginx:
        client = await nginx.h1().connect()
        body = b"x" * size
        if chunked:
            head, body = (
                request("POST", "/api/chat_stream", Transfer_Encoding="chunked"),
                b"%x\r\n%b\r\n0\r\n\r\n"
                % (
                    size,
                    body,
                ),
            )
        else:
            head = request("POST", "/api/chat_stream", Content_Length=str(size))
        await client.send(head)
        await client.send(body)
        answer = await answer_of(client)
    if size > MAX_BODY_BYTES:
        check_error(answer, 413, "too_large")
        assert origin.heads == []
    else:
        assert answer.status == 200
        assert origin.header("Content-Length") == [str(size)]


async def test_a_body_that_is_too_large_in_http_2() -> None:
    async with Origin() as origin, in_front_of(origin.port) as nginx:
        answer = await nginx.h2().post("/api/chat_stream", b"", Content_Length=str(MAX_BODY_BYTES + 1))
    check_error(answer, 413, "too_large")
    assert origin.heads == []


# Failures


@PROTOCOLS
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_service_that_is_down(protocol: str, method: str) -> None:
    async with before_nobody() as nginx:
        far = nginx.h1() if protocol == "h1" else nginx.h2()
        answer = await far.call(method, "/api/sessions", {} if method == "POST" else None)
    check_error(answer, 502, "unavailable", "5")


async def test_a_service_that_says_nothing() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with (
        Origin(silent) as origin,
        in_front_of(origin.port, changes={"proxy_read_timeout 1h;": "proxy_read_timeout 1s;"}) as nginx,
    ):
        check_error(await nginx.h1().get("/api/sessions"), 504, "unavailable", "5")


async def test_errors_of_the_service_pass_unchanged(service: Process) -> None:
    async with in_front_of(service.port) as nginx:
        for path in ("/api/nothing", "/api/sessions/nothing"):
            near, far = await service.get(path), await nginx.h2().get(path)
            assert (far.status, far.json) == (near.status, near.json) == (404, near.json)
            assert far.headers["strict-transport-security"]


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        (f"GET /api/{'x' * 50_000} HTTP/1.1\r\nHost: odysseus", 414, "bad_request"),
        (f"GET /api/x HTTP/1.1\r\nHost: odysseus\r\nCookie: {'x' * 50_000}", 431, "bad_request"),
        ("GET /api/%00 HTTP/1.1\r\nHost: odysseus", 400, "bad_request"),
        ("GET /../../etc/passwd HTTP/1.1\r\nHost: odysseus", 400, "bad_request"),
        ("nonsense", 400, "bad_request"),
        ("POST /api/x HTTP/1.1\r\nHost: odysseus\r\nContent-Length: x", 400, "bad_request"),
        (
            "POST /api/x HTTP/1.1\r\nHost: odysseus\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
            400,
            "bad_request",
        ),
        ("POST /api/x HTTP/1.1\r\nHost: odysseus\r\nTransfer-Encoding: gzip", 501, "unavailable"),
        ("TRACE /api/x HTTP/1.1\r\nHost: odysseus", 405, "method_not_allowed"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_nginx_cannot_read(lines: str, status: int, code: str) -> None:
    async with Origin() as origin, in_front_of(origin.port) as nginx:
        client = await nginx.h1().connect()
        await client.send(f"{lines}\r\n\r\n".encode())
        check_error(await answer_of(client), status, code)
    assert origin.heads == []


# What is nobody else's business


@PROTOCOLS
@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
async def test_internal_paths(service: Process, protocol: str, path: str) -> None:
    async with in_front_of(service.port, changes=FROM_ANYWHERE) as nginx:
        far = nginx.h1() if protocol == "h1" else nginx.h2()
        assert (await far.get(path)).status == 200
        for address in ("127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.7.7", "::1", "fd00::1"):
            assert (await far.get(path, X_Test_Address=address)).status == 200
        for address in ("203.0.113.6", "172.32.0.1", "8.8.8.8", "2001:db8::1", "::ffff:8.8.8.8"):
            check_error(await far.get(path, X_Test_Address=address), 404, "not_found")


@pytest.mark.parametrize(
    "path",
    [
        *("//metrics", "/./metrics", "/.//metrics", "/%2e/metrics", "/%6detrics", "/METRICS", "/metrics/"),
        *("/metrics?x=/api/", "/metrics#x", "/metrics;x", "/metrics%2f", "/metrics%3f", "/metrics%0a", "/metrics%20"),
        *("/api/../metrics", "/api//../../metrics", "/api/..;/metrics", "/api%2f..%2fmetrics", "/x/%2e%2e/metrics"),
        *("\\metrics", "/api\\..\\metrics", "/%252e%252e/metrics", "metrics", "*"),
        *("http://odysseus/metrics", "http://evil.example/metrics"),
    ],
)  # fmt: skip
async def test_no_spelling_leads_to_them(service: Process, path: str) -> None:
    async with in_front_of(service.port, changes=FROM_ANYWHERE) as nginx:
        client = await nginx.h1().connect()
        await client.send(request("GET", path, X_Test_Address="203.0.113.6", Connection="close"))
        answer = await answer_of(client)
    assert answer.status in {400, 404, 421}
    assert "odysseus_runs" not in str(answer.json)


async def test_the_page_of_errors_is_none(service: Process) -> None:
    async with in_front_of(service.port) as nginx:
        check_error(await nginx.h1().get("/.error"), 404, "not_found")


# Names, and the port without TLS


async def test_port_80_leads_to_tls(service: Process) -> None:
    async with in_front_of(service.port) as nginx:
        client = await Client.connect(socket.socket(), "127.0.0.1", nginx.http_port)
        await client.send(request("GET", "/api/sessions?limit=1"))
        assert await client.read_head() == 301
        assert client.headers["location"] == "https://odysseus/api/sessions?limit=1"


async def test_other_names_are_refused(service: Process) -> None:
    async with in_front_of(service.port) as nginx:
        plain = await Client.connect(socket.socket(), "127.0.0.1", nginx.http_port)
        await plain.send(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        with pytest.raises(ConnectionError):
            await plain.read_head()
        client = await nginx.h1().connect()
        await client.send(b"GET /api/sessions HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert await client.read_head() == 421
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection("127.0.0.1", nginx.port, ssl=True, server_hostname="evil.example")


async def test_the_log_names_the_run_and_no_query(service: Process) -> None:
    async with in_front_of(service.port) as nginx:
        client = await nginx.h1().open("GET", "/api/sessions?limit=7&signature=sesame")
        await client.read_all()
        await nginx.stop()
        assert '"GET /api/sessions HTTP/1.1" 200 ' in nginx.access_log
        assert "sesame" not in nginx.access_log


async def answer_of(client: Client) -> Answer:
    await client.read_head()
    with contextlib.suppress(ConnectionError):
        await client.read_all()
    body = bytes(client.body)
    return Answer(client.status, client.headers, json.loads(body) if body[:1] == b"{" else body)

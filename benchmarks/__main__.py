"""Two first figures, each beside what it can't beat, measured in turns: the model server asked without Odysseus.

- stop: the client closes a silent stream -> the model server sees its connection close;
- delay: the model server says a word -> the client has it (p50, p99), and the service's CPU time a token.

Run on an idle machine; the ratios say more than the numbers.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.fake_upstream import Exchange, FakeUpstream, chunk

_ROUNDS = 100
_TOKENS = 500
_GAP_S = 0.002


async def _stamped(exchange: Exchange) -> None:
    """Say the time, again and again."""
    await exchange.head()
    for _ in range(_TOKENS):
        await exchange.send(chunk(f"{time.monotonic()} "))
        await asyncio.sleep(_GAP_S)
    await exchange.send(chunk(finish_reason="stop"))
    await exchange.send(b"data: [DONE]\n\n")
    await exchange.end()


async def _silent(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send(chunk("a"))
    await asyncio.Event().wait()


@asynccontextmanager
async def _service(upstream: FakeUpstream) -> AsyncIterator[tuple[str, int]]:
    """Start the real process; give its URL and its process id."""
    with tempfile.TemporaryDirectory() as folder:
        env = {
            **os.environ,
            "ODYSSEUS_PORT": "0",
            "ODYSSEUS_DATA_DIR": folder,
            "ODYSSEUS_UPSTREAM_URL": upstream.url,
            "ODYSSEUS_DRAIN_S": "0",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "app.py", env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        assert process.stdout is not None
        greeting = (await process.stdout.readline()).decode()
        try:
            yield greeting.split()[-1], process.pid
        finally:
            process.terminate()
            await process.wait()


async def _post(url: str, body: dict[str, object]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    data = json.dumps(body).encode()
    head = f"POST {parts.path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return reader, writer


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _stop_ms(upstream: FakeUpstream, url: str, body: dict[str, object]) -> float:
    upstream.script = _silent
    number = len(upstream.exchanges)
    reader, writer = await _post(url, body)
    await reader.readuntil(b'"a"')
    closed_at = time.monotonic()
    writer.close()
    exchange = await upstream.exchange(number)
    await exchange.closed.wait()
    assert exchange.closed_at is not None
    return (exchange.closed_at - closed_at) * 1000


async def _delays_ms(upstream: FakeUpstream, url: str, body: dict[str, object]) -> list[float]:
    upstream.script = _stamped
    reader, writer = await _post(url, body)
    delays = []
    while (line := await reader.readline()) and b"[DONE]" not in line:
        for key in (b'"text":"', b'"content": "'):
            if key in line:
                stamps = line.partition(key)[2].partition(b'"')[0].split()
                delays += [(time.monotonic() - float(stamp)) * 1000 for stamp in stamps]
    writer.close()
    return delays


def _row(name: str, ours: list[float], bare: list[float]) -> str:
    figures = []
    for values in (ours, bare):
        p50, p99 = statistics.median(values), statistics.quantiles(values, n=100)[98]
        figures.append((p50, p99))
    (our50, our99), (bare50, bare99) = figures
    return f"| {name} | {our50:.2f} | {our99:.2f} | {bare50:.2f} | {bare99:.2f} | {our50 / bare50:.1f} |"


async def main() -> None:
    async with FakeUpstream(_silent) as upstream, _service(upstream) as (url, pid):
        service, compare = f"{url}/api/chat_stream", {"message": "hi", "compare_mode": True}
        bare_url, bare = f"{upstream.url}/chat/completions", {"model": "m", "messages": [], "stream": True}
        stops: tuple[list[float], list[float]] = [], []
        for _ in range(_ROUNDS):
            stops[0].append(await _stop_ms(upstream, service, compare))
            stops[1].append(await _stop_ms(upstream, bare_url, bare))
        delays: dict[str, list[float]] = {"detached": [], "direct": [], "bare": []}
        before = _cpu_s(pid)
        for _ in range(3):
            delays["detached"] += await _delays_ms(upstream, service, {"message": "hi"})
            delays["direct"] += await _delays_ms(upstream, service, compare)
            delays["bare"] += await _delays_ms(upstream, bare_url, bare)
        cpu_us = (_cpu_s(pid) - before) / (6 * _TOKENS) * 1e6
    print("| ms | Odysseus p50 | p99 | model server alone p50 | p99 | ratio of p50 |\n|---|---|---|---|---|---|")
    print(_row("stop: close -> model's connection closed", *stops))
    print(_row("delay of a word, detached", delays["detached"], delays["bare"]))
    print(_row("delay of a word, direct", delays["direct"], delays["bare"]))
    print(f"\n{cpu_us:.0f} us of CPU a token (one stream, {_GAP_S * 1000:.0f} ms between tokens)")


if __name__ == "__main__":
    asyncio.run(main())

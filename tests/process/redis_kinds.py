"""The ways in which Redis can be run, each for real, and the URLs by which the service finds it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from tests.postgres import free_port
from tests.process.nginx import write_certificate
from tests.process.raw_client import until
from tests.process.redis import Redis

__all__ = ["KINDS", "Sentinels", "by_sentinel", "redis_of"]

PASSWORD = "sesame-0123456789"
RIGHTS = "+@stream +evalsha +script|load +expire +get +set +del +ping +info"
"""What the documentation says that the service needs, beside the keys `{odysseus}:*`."""

KINDS = ("password", "user", "socket", "TLS", "cluster", "cluster over TLS", "sentinel", "sentinel over TLS")


class Sentinel(Redis):
    """Watches the master at *port*, and makes its replica the master when it is gone."""

    def __init__(self, folder: Path, port: int, *options: str) -> None:
        super().__init__(folder, *options)
        self._master = port

    def _arguments(self) -> list[str]:
        """Write its configuration, in which it keeps what it learns."""
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self._folder}",
            f"sentinel monitor main 127.0.0.1 {self._master} 1",
            "sentinel down-after-milliseconds main 1000",
            "sentinel failover-timeout main 3000",
        ]
        (self._folder / "sentinel.conf").write_text("\n".join(lines))
        return [f"{self._folder}/sentinel.conf", "--sentinel", *self._options]


class Sentinels:
    """A master, its replica and a sentinel."""

    def __init__(self, master: Redis, replica: Redis, sentinel: Sentinel, url: str) -> None:
        self.master, self.replica, self.sentinel = master, replica, sentinel
        self.url = url

    async def fail_over(self) -> None:
        """Kill the master and wait until the replica is one."""
        await self.master.stop()

        async def promoted() -> bool:
            with suppress(ConnectionError):  # the sentinel has all connections closed
                return (await self.replica.lines("ROLE"))[2] == "master"
            return False

        await until(promoted)


async def _stop(server: Redis) -> None:
    if server.running:
        await server.stop()


@asynccontextmanager
async def by_sentinel(folder: Path, *options: str, tls: bool = False) -> AsyncIterator[Sentinels]:
    async with AsyncExitStack() as stack:

        async def started(server: Redis) -> None:
            stack.push_async_callback(_stop, server)
            await server.start()

        ports = [free_port() for _ in range(3)]
        options += ("--tls-replication", "yes") if tls else ()

        def at(port: int) -> tuple[str, ...]:
            return (*options, "--tls-port", str(port)) if tls else options

        await started(master := Redis(folder / "master", *at(ports[0])))
        port = ports[0] if tls else master.port
        await started(replica := Redis(folder / "replica", *at(ports[1]), "--replicaof", "127.0.0.1", str(port)))
        await started(sentinel := Sentinel(folder / "sentinel", port, *at(ports[2])))
        entry = ports[2] if tls else sentinel.port

        async def known() -> bool:
            info = await sentinel.lines("INFO", "sentinel")
            return any("status=ok,address=" in line and "slaves=1" in line for line in info)

        await until(known)
        scheme = "rediss" if tls else "redis"
        yield Sentinels(master, replica, sentinel, f"{scheme}+sentinel://127.0.0.1:1,127.0.0.1:{entry}/main")


@asynccontextmanager
async def redis_of(kind: str) -> AsyncIterator[str]:
    """Run Redis in this way; yield its URL."""
    folder = Path(tempfile.mkdtemp(prefix="odysseus-redis-"))
    write_certificate(folder)
    authority = f"{folder}/certificate.pem"
    options: tuple[str, ...] = ()
    query = ""
    if tls := kind.endswith("TLS"):
        options = (
            *("--tls-cert-file", authority, "--tls-key-file", f"{folder}/key.pem"),
            *("--tls-ca-cert-file", authority, "--tls-auth-clients", "no"),
        )
        query = f"?ssl_ca_certs={authority}"
    try:
        async with AsyncExitStack() as stack:
            if kind.startswith("sentinel"):
                sentinels = await stack.enter_async_context(by_sentinel(folder, *options, tls=tls))
                yield sentinels.url + query.replace("?", "?ssl_check_hostname=no&")  # it gives out addresses
                return
            if kind.startswith("cluster"):
                yield await _cluster(stack, folder, *options, tls=tls) + query.replace("?", "?ssl_check_hostname=no&")
                return
            port = free_port()
            options += ("--tls-port", str(port)) if tls else ("--unixsocket", f"{folder}/socket")
            server = Redis(folder / "server", *options)
            stack.push_async_callback(_stop, server)
            await server.start()
            await server.call("ACL", "SETUSER", "odysseus", "on", f">{PASSWORD}", "~{odysseus}:*", *RIGHTS.split())
            await server.call("CONFIG", "SET", "requirepass", PASSWORD)
            yield {
                "password": f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0",
                "user": f"redis://odysseus:{PASSWORD}@127.0.0.1:{server.port}/0",
                "socket": f"unix://:{PASSWORD}@{folder}/socket?db=1",
                "TLS": f"rediss://:{PASSWORD}@localhost:{port}/0{query}",
            }[kind]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _cluster(stack: AsyncExitStack, folder: Path, *options: str, tls: bool) -> str:
    """Run three masters; return the URL of one that doesn't have the slot of our keys, behind one that isn't there."""
    servers = []
    options += ("--tls-cluster", "yes", "--tls-replication", "yes") if tls else ()
    for number in range(3):
        port = free_port()
        own = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
        own += ("--tls-port", str(port)) if tls else ()
        server = Redis(folder / f"server{number}", *options, *own)
        stack.push_async_callback(_stop, server)
        await server.start()
        first, last = 5461 * number, 5461 * number + 5460 + (number == 2)
        assert await server.call("CLUSTER", "ADDSLOTSRANGE", str(first), str(last)) == "+OK"
        servers.append((server, port if tls else server.port, own[3]))
    first_server = servers[0][0]
    for _, port, bus in servers[1:]:
        assert await first_server.call("CLUSTER", "MEET", "127.0.0.1", str(port), bus) == "+OK"

    async def whole() -> bool:
        infos = [await server.lines("CLUSTER", "INFO") for server, *_ in servers]
        return all("cluster_state:ok" in info and "cluster_known_nodes:3" in info for info in infos)

    await until(whole)
    slot = int((await first_server.call("CLUSTER", "KEYSLOT", "{odysseus}"))[1:])
    other = servers[(slot // 5461 + 1) % 3]
    return f"{'rediss' if tls else 'redis'}+cluster://127.0.0.1:1,127.0.0.1:{other[1]}"

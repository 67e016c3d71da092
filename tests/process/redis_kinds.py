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

__all__ = ["KINDS", "Replicated", "as_cluster", "by_sentinel", "redis_of"]

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


class Replicated:
    """A master and its replica, which others make the master when that is gone."""

    def __init__(self, master: Redis, replica: Redis, url: str) -> None:
        self.master, self.replica = master, replica
        self.url = url

    async def fail_over(self) -> None:
        """Kill the master and wait until the replica is one."""
        await self.master.stop()

        async def promoted() -> bool:
            with suppress(ConnectionError):  # a sentinel has all connections closed
                return (await self.replica.lines("ROLE"))[2] == "master"
            return False

        await until(promoted)


async def _stop(server: Redis) -> None:
    if server.running:
        await server.stop()


@asynccontextmanager
async def by_sentinel(folder: Path, *options: str, tls: bool = False) -> AsyncIterator[Replicated]:
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
        yield Replicated(master, replica, f"{scheme}+sentinel://127.0.0.1:1,127.0.0.1:{entry}/main")


@asynccontextmanager
async def as_cluster(folder: Path, *options: str, tls: bool = False) -> AsyncIterator[Replicated]:
    """Run three masters, and a replica of the one with our keys. The URL names another, and one that isn't there."""
    options += ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
    options += ("--tls-cluster", "yes", "--tls-replication", "yes") if tls else ()
    async with AsyncExitStack() as stack:
        servers, ports = [], []
        for number in range(4):
            port, bus = free_port(), str(free_port())
            own = ("--cluster-port", bus, *(("--tls-port", str(port)) if tls else ()))
            servers.append(server := Redis(folder / f"server{number}", *options, *own))
            stack.push_async_callback(_stop, server)
            await server.start()
            ports.append(port if tls else server.port)
            if number:
                assert await servers[0].call("CLUSTER", "MEET", "127.0.0.1", str(ports[-1]), bus) == "+OK"
        *masters, replica = servers
        for number, server in enumerate(masters):
            first, last = 5461 * number, 5461 * number + 5460 + (number == 2)
            assert await server.call("CLUSTER", "ADDSLOTSRANGE", str(first), str(last)) == "+OK"
        ours = int((await replica.call("CLUSTER", "KEYSLOT", "{odysseus}"))[1:]) // 5461

        async def whole() -> bool:
            infos = [await server.lines("CLUSTER", "INFO") for server in servers]
            return all("cluster_state:ok" in info and "cluster_known_nodes:4" in info for info in infos)

        async def replicates() -> bool:
            return "connected" in await replica.lines("ROLE")

        await until(whole)
        _, ours_id, *_ = await masters[ours].lines("CLUSTER", "MYID")
        assert await replica.call("CLUSTER", "REPLICATE", ours_id) == "+OK"
        await until(replicates)
        url = f"{'rediss' if tls else 'redis'}+cluster://127.0.0.1:1,127.0.0.1:{ports[(ours + 1) % 3]}"
        yield Replicated(masters[ours], replica, url)


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
            if kind.startswith(("sentinel", "cluster")):
                run = by_sentinel if kind.startswith("sentinel") else as_cluster
                replicated = await stack.enter_async_context(run(folder, *options, tls=tls))
                yield replicated.url + query.replace("?", "?ssl_check_hostname=no&")  # they give out addresses
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

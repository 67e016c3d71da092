"""The real nginx with `deploy/nginx.conf`: only addresses, ports and paths are replaced, so that it is this file that
is tested."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.process.h2_client import H2Service
from tests.process.raw_client import LIMIT_S
from tests.process.service import Answer
from tests.process.tls_client import HOST, TlsService

__all__ = ["FROM_ANYWHERE", "Nginx", "check_error", "in_front_of", "write_certificate"]

_NAMES = (HOST, "localhost")  # in its configuration and in its certificate

FROM_ANYWHERE = {"\nhttp {": "\nhttp { set_real_ip_from 127.0.0.1; real_ip_header X-Test-Address;"}
"""A change that lets a request name the address it comes from."""

_FILE = Path(__file__).parents[2] / "deploy" / "nginx.conf"
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Nginx:
    """An nginx of our own in *folder*, before a service at each of *ports*. *changes* are made to the file's text."""

    def __init__(self, executable: str, folder: Path, ports: tuple[int, ...], changes: Mapping[str, str]) -> None:
        self.port, self.http_port = _free_ports(2)
        self._folder = folder
        self._ports = ports
        self._changes = changes
        self._command = [
            executable,
            "-p",
            str(folder),
            "-c",
            str(folder / "nginx.conf"),
            "-e",
            str(folder / "error.log"),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        folder.chmod(0o755)  # as root it changes to a user of its own, who must find its files
        write_certificate(folder)
        (folder / "nginx.conf").write_text(self._configuration())

    def check(self) -> str:
        """Return what `nginx -t` says. Raises if it refuses the file."""
        done = subprocess.run([*self._command, "-t"], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    async def start(self) -> None:
        """Start it in the foreground and wait until it listens. Raises what it said if it ended instead."""
        self._process = process = await asyncio.to_thread(
            subprocess.Popen, [*self._command, "-g", "daemon off;"], stdin=subprocess.DEVNULL, start_new_session=True
        )
        async with asyncio.timeout(LIMIT_S):
            while not await self._listens():
                if process.poll() is not None:
                    raise RuntimeError((self._folder / "error.log").read_text())
                await asyncio.sleep(0.01)

    async def reload(self) -> None:
        """Tell it to read its file again, as an operator does; streams stay with the workers that have them."""
        await asyncio.to_thread(subprocess.run, [*self._command, "-s", "reload"], check=True)

    async def stop(self) -> None:
        """Stop it with all its streams, at once."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, LIMIT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def h1(self) -> TlsService:
        """Return the service as HTTP/1.1 shows it."""
        return TlsService(self.port, self._tls())

    def h2(self, *, share: bool = False) -> H2Service:
        """Return the service as HTTP/2 shows it; with *share* all requests go over one connection."""
        return H2Service(self.port, self._tls(), share=share)

    @property
    def access_log(self) -> str:
        return (self._folder / "access.log").read_text()

    def _configuration(self) -> str:
        folder = self._folder
        text = re.sub(r"\n *listen \[::\].*", "", _FILE.read_text())
        servers = "".join(f"server 127.0.0.1:{port}; " for port in self._ports)
        paths = "".join(f"{name}_temp_path {folder}/{name}; " for name in _TEMPORARY)
        own = {
            "pid /run/nginx.pid;": f"pid {folder}/pid;",
            "/var/log/nginx/": f"{folder}/",
            "/etc/letsencrypt/live/odysseus.example.com/fullchain.pem": f"{folder}/certificate.pem",
            "/etc/letsencrypt/live/odysseus.example.com/privkey.pem": f"{folder}/key.pem",
            "server_name odysseus.example.com;": f"server_name {' '.join(_NAMES)};",
            "server 127.0.0.1:8080;": servers,
            "listen 80": f"listen 127.0.0.1:{self.http_port}",
            "listen 443": f"listen 127.0.0.1:{self.port}",
            "\nhttp {": f"\nhttp {{ {paths}",
        }
        for old, new in [*own.items(), *self._changes.items()]:
            assert old in text, f"deploy/nginx.conf lacks {old!r}"
            text = text.replace(old, new)
        return text

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._folder / "certificate.pem")

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionError:
            return False
        writer.close()
        await writer.wait_closed()
        return True


@asynccontextmanager
async def in_front_of(*ports: int, changes: Mapping[str, str] | None = None) -> AsyncIterator[Nginx]:
    """Run nginx before the services at *ports*; stop it in the end. Skips the test where there is none.

    *changes* maps texts of the file, which must be there, to what they are to be instead.
    """
    executable = _executable()
    folder = Path(tempfile.mkdtemp(prefix="odysseus-nginx-"))
    try:
        nginx = Nginx(executable, folder, ports, changes or {})
        try:
            await nginx.start()
        except RuntimeError:  # a port that was free a moment ago may be somebody's
            nginx = Nginx(executable, folder, ports, changes or {})
            await nginx.start()
        try:
            yield nginx
        finally:
            await nginx.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_error(answer: Answer, status: int, code: str, retry_after: str | None = None) -> None:
    """Check that it has the shape of our own errors, and what every answer has."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["error"].keys() == {"code", "message"}
    assert answer.json["error"]["code"] == code
    assert answer.headers.get("retry-after") == retry_after
    assert answer.headers["strict-transport-security"] == "max-age=63072000"


def _executable() -> str:
    if found := shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        return found
    reason = "nginx isn't installed"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def write_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAMES[0])])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in _NAMES]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))

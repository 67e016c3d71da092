"""Two machines and the wire between them, made of two network namespaces: a client can vanish without a word."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["SERVER", "Wire", "missing", "wire"]

SERVER, _CLIENT = "10.77.0.1", "10.77.0.2"
_CLONE_NEWNET = 0x40000000


class Wire:
    """The namespaces `near`, where the service runs, and `far`, where its clients are."""

    def __init__(self, name: str) -> None:
        self.near, self.far = f"{name}-near", f"{name}-far"
        self.inside = ["ip", "netns", "exec", self.near]
        """What to put before a command that runs with the service."""

    def near_socket(self) -> socket.socket:
        return _socket_in(self.near)

    def far_socket(self) -> socket.socket:
        return _socket_in(self.far)

    def cut(self) -> None:
        """Let everything vanish that goes from one end to the other."""
        _ip("-n", self.far, "link", "set", "wire", "down")


@contextmanager
def wire() -> Iterator[Wire]:
    """Lay a wire; it is gone in the end. Needs root."""
    made = Wire(f"odysseus-{os.getpid()}")
    try:
        for namespace in (made.near, made.far):
            _ip("netns", "add", namespace)
        _ip("-n", made.near, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", made.far)
        for namespace, address in ((made.near, SERVER), (made.far, _CLIENT)):
            _ip("-n", namespace, "address", "add", f"{address}/24", "dev", "wire")
            for device in ("lo", "wire"):
                _ip("-n", namespace, "link", "set", device, "up")
        yield made
    finally:
        for namespace in (made.near, made.far):
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)


def missing() -> str | None:
    """Return why there can't be a wire here; None if there can."""
    if shutil.which("ip") is None:
        return "there is no `ip` command"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with wire():
            return None
    except subprocess.CalledProcessError as error:
        return f"network namespaces: {error.stderr.strip()}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _socket_in(namespace: str) -> socket.socket:
    """Return a socket that belongs to *namespace* for good. A thread of its own goes there, and ends."""
    made: list[socket.socket] = []

    def work() -> None:
        handle = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.socket())
        finally:
            os.close(handle)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return made[0]

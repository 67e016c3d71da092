"""What the service says on stdout when it is ready."""

from __future__ import annotations

import sys

import odysseus

__all__ = ["greet"]


def greet(host: str, port: int) -> None:
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"Odysseus {odysseus.__version__} listens at {url}\nTry it:\n")
    print(f"  curl -N {url}/api/chat_stream -H 'Content-Type: application/json' -d '{{\"message\": \"Hello!\"}}'\n")
    sys.stdout.flush()

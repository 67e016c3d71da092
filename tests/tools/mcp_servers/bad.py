"""Servers that misbehave, each by what it is called with; plain scripts, as the SDK lets nobody misbehave so."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path


def silent() -> None:
    """Take everything and answer nothing."""
    sys.stdin.read()


def flood() -> None:
    """Print what isn't a message, for ever."""
    while True:
        print("\n" * 1_000_000)


def chatty() -> None:
    """Print lines that aren't messages, and be the good server."""
    print("not a message\n{nor this\n" * 1000, flush=True)
    sys.argv[1:] = ["stdio"]
    runpy.run_path(str(Path(__file__).with_name("many_tools.py")), run_name="__main__")


def old() -> None:
    """Exit when the first message isn't the handshake of old, as some servers do."""
    for line in sys.stdin:
        request = json.loads(line)
        if request["method"] == "initialize":
            version = request["params"]["protocolVersion"]
            result = {
                "protocolVersion": version,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "", "version": ""},
            }
        elif request["method"] == "tools/list":
            result = {"tools": [{"name": "old", "inputSchema": {"type": "object"}}]}
        elif "id" in request:
            sys.exit("expected initialize")
        else:
            continue
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)


def family(file: str) -> None:
    """Start two children, of which one ignores SIGTERM; append the process group to *file*, and exit."""
    subprocess.Popen(["sleep", "1000"])
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(1000)"
    child = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    with open(file, "a") as groups:
        print(os.getpgrp(), file=groups)


def stubborn(file: str) -> None:
    """As `family`, but ignore SIGTERM and the end of stdin."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    family(file)
    while True:
        signal.pause()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

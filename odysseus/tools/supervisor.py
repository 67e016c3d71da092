"""Runs an MCP server and ends all it has started; a script, run as `python -I -S supervisor.py PARENT COMMAND ARGS..`.

It leads a process group, in which it starts *command* with its own stdin and stdout. When the server exits, when
*parent* (a process id, the one that started this) dies, or on SIGTERM, the whole group gets SIGTERM and, 2 seconds
later, SIGKILL. It exits as the server did, or as a shell would: 127 if there is no such command, 126 if it can't run.

Outside of Linux nobody tells of a parent's death; there the server has to notice that its stdin is closed.
"""

from __future__ import annotations

import os
import signal
import sys

_GRACE_S = 2.0

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36


def _supervise(parent: int, command: list[str]) -> int:
    signals = {signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM}
    signal.signal(signal.SIGCHLD, lambda *_: None)  # some systems drop a blocked signal that is ignored by default
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # all of them are waited for below
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans of the group become children of this, to be reaped and waited for
        if os.getppid() != parent:  # it died before the first line
            return 1
    try:
        server = os.posix_spawnp(
            command[0], command, os.environ, setsigmask=(), setsigdef=(signal.SIGPIPE, signal.SIGXFSZ)
        )
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126
    _let_go_of_the_pipes()
    statuses: dict[int, int] = {}
    while server not in statuses and signal.sigwait(signals) != signal.SIGTERM:
        _reap(statuses)
    _end_group(statuses)
    code = os.waitstatus_to_exitcode(statuses.get(server, signal.SIGTERM))
    return code if code >= 0 else 128 - code


def _prctl(option: int, value: int) -> None:
    import ctypes  # 10 ms that only Linux has to pay

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _let_go_of_the_pipes() -> None:
    """Close this process's copies, so that each side sees at once when the other is gone."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)


def _reap(statuses: dict[int, int]) -> bool:
    """Note the status of each child that has ended. Return whether any child is left."""
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if child == 0:
            return True
        statuses[child] = status


def _end_group(statuses: dict[int, int]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is one of the group
    os.killpg(0, signal.SIGTERM)
    signal.setitimer(signal.ITIMER_REAL, _GRACE_S)
    # Where orphans don't become children of this, nobody knows whether any are left.
    while _reap(statuses) or sys.platform != "linux":
        if signal.sigwait({signal.SIGCHLD, signal.SIGALRM}) == signal.SIGALRM:
            os.killpg(0, signal.SIGKILL)  # this process, too


if __name__ == "__main__":
    sys.exit(_supervise(int(sys.argv[1]), sys.argv[2:]))

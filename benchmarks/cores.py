"""Who runs where, and what it took: cores, processor time, memory."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path

__all__ = ["LOAD_CORE", "SERVER_CORE", "busy_ns", "cpu_ns", "pin", "pss_kib", "raise_file_limit"]

_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE = _CORES[0]
LOAD_CORE = _CORES[-1]

_PROCESS_CLOCK = 2  # CPUCLOCK_SCHED of the whole process, ended threads included; see clock_getcpuclockid(3)


def pin(core: int) -> None:
    """Keep this process, and all that it starts from now on, on *core*."""
    os.sched_setaffinity(0, {core})


def raise_file_limit() -> None:
    """Allow this process, and all that it starts from now on, as many sockets as the system lets it have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def cpu_ns(pids: Iterable[int]) -> int:
    """Return the processor time, user and system, that *pids* have taken since they started.

    It is what `/proc/PID/stat` tells in ticks of 10 ms, which is more than some of the measurements take.
    """
    return sum(time.clock_gettime_ns((~pid << 3) | _PROCESS_CLOCK) for pid in pids)


def busy_ns() -> int:
    """Return how long the two cores have worked, for whomever, to 10 ms; with what a hypervisor took from them."""
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    cores = {f"cpu{core}" for core in (SERVER_CORE, LOAD_CORE)}
    ticks = sum(sum(map(int, fields[1:4] + fields[6:9])) for fields in lines if fields[0] in cores)
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def pss_kib(pids: Iterable[int]) -> int:
    """Return the memory of *pids*, with what they share counted once."""
    return sum(_pss_kib(Path(f"/proc/{pid}/smaps_rollup")) for pid in pids)


def _pss_kib(rollup: Path) -> int:
    line = next(line for line in rollup.read_text().splitlines() if line.startswith("Pss:"))
    return int(line.split()[1])

"""All targets, in the order in which they take turns. Kin share a module."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.target import Target
from benchmarks.targets.nginx import Nchan, Nginx
from benchmarks.targets.python import FastApi, Limit, Odysseus
from benchmarks.targets.resumable_stream import ResumableStream

__all__ = ["TARGETS"]

TARGETS: Mapping[str, type[Target]] = {
    target.name: target for target in (Limit, Odysseus, FastApi, ResumableStream, Nginx, Nchan)
}

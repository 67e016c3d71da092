"""All scenarios, in the order in which they run. Kin share a module."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.scenario import Scenario
from benchmarks.scenarios.burst import Burst
from benchmarks.scenarios.fan_out import FanOut
from benchmarks.scenarios.growth import Growth
from benchmarks.scenarios.memory import Memory
from benchmarks.scenarios.paced import Paced
from benchmarks.scenarios.resume import Resume
from benchmarks.scenarios.stop import ClientCloses, StopEndpoint

__all__ = ["SCENARIOS"]

SCENARIOS: Mapping[str, type[Scenario]] = {
    scenario.name: scenario for scenario in (ClientCloses, Paced, Burst, FanOut, Memory, Resume, StopEndpoint, Growth)
}

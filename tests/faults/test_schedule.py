"""A seed is always the same schedule, and a schedule has all that it should break."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tests.faults.schedule import EVERY_KIND, How, Kind, Schedule

SEEDS = range(20)


def said(schedule: Schedule) -> object:
    return schedule.runs, schedule.lanes, schedule.ends_s


def test_a_seed_is_always_the_same_schedule() -> None:
    assert said(Schedule(7)) == said(Schedule(7))
    assert said(Schedule(7)) != said(Schedule(8))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_of_fault_happens(seed: int) -> None:
    schedule = Schedule(seed)
    assert {fault.kind for fault in schedule.faults} == set(EVERY_KIND)
    assert {fault.node for fault in schedule.faults} == {0, 1, 2}
    for fault in schedule.faults:
        assert fault.kind is not Kind.PAUSE or fault.lasts_s > schedule.lease_s
        assert fault.ends_s <= schedule.ends_s


@pytest.mark.parametrize("seed", SEEDS)
def test_a_lane_undoes_what_it_does_before_it_goes_on(seed: int) -> None:
    for lane in Schedule(seed).lanes:
        assert all(before.ends_s < after.at_s for before, after in pairwise(lane))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_asked_for(seed: int) -> None:
    schedule = Schedule(seed, runs=500)
    assert sorted(run.number for run in schedule.runs) == list(range(500))
    assert all(before.at_s <= after.at_s for before, after in pairwise(schedule.runs))
    assert all(run.words <= 300 for run in schedule.runs)
    assert sum(run.words > 100 for run in schedule.runs) >= 10
    assert sum(run.stop is not None for run in schedule.runs) >= 40
    watchers = [watcher for run in schedule.runs for watcher in run.watchers]
    assert sum(bool(watcher.hops) for watcher in watchers) >= 150
    assert sum(watcher.leaves_after is not None for watcher in watchers) >= 50
    assert {run.session for run in schedule.runs} == {None, *range(schedule.common_sessions)}
    assert {how: count >= 10 for how, count in Counter(run.how for run in schedule.runs).items()} == dict.fromkeys(
        How, True
    )
    assert all(run.how is How.DETACHED or (len(run.watchers) == 1 and not run.as_json) for run in schedule.runs)
    kept = [run for run in schedule.runs if run.kept_after_s is not None]
    assert len(kept) >= 10
    assert {run.how for run in kept} == {How.PANE}
    assert sum(run.breaks_after is not None for run in schedule.runs) >= 10
    assert sum(run.must_be_ended for run in schedule.runs) >= 20
    deleted = [run for run in schedule.runs if run.deleted_after_s is not None]
    assert len(deleted) >= 10
    assert {run.session for run in deleted} == {None}
    assert {run.if_busy for run in schedule.runs} == {"reject", "replace", "queue"}


def test_only_the_faults_that_there_can_be() -> None:
    schedule = Schedule(1, runs=10, nodes=1, span_s=10, kinds=[Kind.KILL])
    assert {(fault.kind, fault.node) for fault in schedule.faults} == {(Kind.KILL, 0)}
    assert len(schedule.lanes) == 1

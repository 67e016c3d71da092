from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odysseus.replay import END, Log, event_id, next_seq

RUN = "run-5_f0"

frames = st.lists(st.binary(max_size=40), max_size=200)


def log_of(frames: list[bytes]) -> Log[bytes]:
    log: Log[bytes] = Log()
    for frame in frames:
        log.append(frame)
    return log


def read_all(log: Log[bytes], start: int, most: int) -> list[bytes]:
    got: list[bytes] = []
    while part := log.read(start + len(got), most):
        got += part
    return got


@settings(deadline=None)
@given(frames, st.integers(0, 120), st.data())
def test_a_cut_log_goes_on_with_the_rest(frames: list[bytes], most: int, data: st.DataObject) -> None:
    """A log that grows after the cut, and is read in slices, gives each frame behind the id once and in order."""
    cut = data.draw(st.integers(0, len(frames)))
    log = log_of(frames[:cut])
    seen = read_all(log, next_seq(None, RUN, len(log)), most)
    last_event_id = event_id(RUN, len(seen) - 1) if seen else None
    for frame in frames[cut:]:
        log.append(frame)
    assert seen + read_all(log, next_seq(last_event_id, RUN, len(log)), most) == frames


seqs = (
    st.integers(-3, 10**30).map(str)
    | st.integers(0, 9).map(str)
    | st.sampled_from(["", "00", "01", "0x1", "1_0", "+1", "-0", " 1", "1 ", "1.0", "1e0", END])
    | st.sampled_from(["\u0661", "\uff11", "\u00b9", "\u2460", "9" * 5000])
    | st.text(max_size=3)
)
runs = st.sampled_from([RUN, RUN.upper(), RUN[:-1], RUN + "0", "other", "", "."]) | st.text(max_size=8)
event_ids = st.builds(lambda run, dot, seq: run + dot + seq, runs, st.sampled_from([".", ".", "..", ""]), seqs)


@settings(deadline=None, max_examples=500)
@given(event_ids | st.text() | st.none(), st.integers(0, 12))
def test_only_ids_given_out_are_continued(last_event_id: str | None, given_out: int) -> None:
    known = {event_id(RUN, seq): seq + 1 for seq in range(given_out)}
    assert next_seq(last_event_id, RUN, given_out) == known.get(last_event_id or "", 0)


@pytest.mark.parametrize(
    ("last_event_id", "seq"),
    [
        (f"{RUN}.0", 1),
        (f"{RUN}.11", 12),
        (f"{RUN}.12", 0),  # not given out yet
        (f"{RUN}.", 0),
        (f"{RUN}", 0),
        (f".{RUN}.1", 0),
        (f"{RUN}.1.1", 0),
        (f"{RUN}.-1", 0),
        (f"{RUN}.01", 0),
        (f"{RUN}.00", 0),
        (f"{RUN}. 1", 0),
        (f"{RUN}.1\n", 0),
        (f"{RUN}.\u0661", 0),  # an Arabic digit: int() would take it
        (f"{RUN}.\u00b9", 0),  # a superscript: isdigit() takes it, int() doesn't
        (f"{RUN}.{10**18}", 0),
        (f"{RUN}." + "1" * 5000, 0),  # more digits than int() takes
        (f"{RUN}.{END}", 0),
        ("older.1", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_next_seq(last_event_id: str | None, seq: int) -> None:
    assert next_seq(last_event_id, RUN, 12) == seq


def test_a_run_id_with_a_dot() -> None:
    assert next_seq(event_id("a.1", 4), "a.1", 9) == 5
    assert next_seq(event_id("a", "1.4"), "a", 9) == 0


@settings(deadline=None)
@given(frames, st.integers(0, 205), st.integers(0, 200))
def test_read_keeps_to_its_budget(frames: list[bytes], start: int, most: int) -> None:
    """As many frames as fit; one where there is one, however big it is."""
    log = log_of(frames)
    got = list(log.read(start, most))
    rest = frames[start:]
    assert got == rest[: len(got)]
    assert len(got) >= min(1, len(rest))
    assert len(got) == 1 or sum(map(len, got)) <= most
    if len(got) < len(rest):
        assert sum(map(len, rest[: len(got) + 1])) > most


@pytest.mark.parametrize("frames", [[b"ab", b"", b"cde"], ["\u00e4b", "", "cde"]], ids=["bytes", "str"])
def test_size_and_length(frames: list[Any]) -> None:
    log: Log[Any] = Log()
    assert (len(log), log.size, list(log.read(0, 100))) == (0, 0, [])
    for frame in frames:
        log.append(frame)
    assert (len(log), log.size, list(log.read(0, 100))) == (3, 5, frames)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"x" * 40_000]), max_size=200), st.integers(0, 205))
def test_a_closed_log_says_the_same(frames: list[bytes], start: int) -> None:
    log = log_of(frames)
    log.close()
    log.close()
    assert (len(log), log.size) == (len(frames), sum(map(len, frames)))
    assert read_all(log, start, 1000) == frames[start:]


def test_what_was_read_does_not_change() -> None:
    log = log_of([b"a"])
    got = log.read(0, 100)
    log.append(b"b")
    assert list(got) == [b"a"]

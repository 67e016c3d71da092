"""Coming back to a run: what was missed, byte for byte, then what comes; 204 where there is nothing more."""

from __future__ import annotations

import asyncio

import pytest

from tests.contract.client import Api, Stream, error
from tests.fake_upstream import say
from tests.process.models import Cue, Models, words

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

HEADER_OR_QUERY = pytest.mark.parametrize("how", ["header", "query"])
SEEN = pytest.mark.parametrize(
    "seen", ["none", "first", "middle", "last", "of another run", "never given out", "a snapshot's"]
)


def id_of(seen: str, ids: list[str], run_id: str) -> tuple[str | None, int]:
    """Return the last event id of a client that has *seen* so much, and the place from which it must be served."""
    middle = len(ids) // 2
    return {
        "none": (None, 0),
        "first": (ids[0], 1),
        "middle": (ids[middle], middle + 1),
        "last": (ids[-1], len(ids)),
        "of another run": ("run_0123456789.3", 0),
        "never given out": (f"{run_id}.9999", 0),
        "a snapshot's": (f"{run_id}.snapshot", 0),
    }[seen]


async def back(api: Api, session_id: str, last_event_id: str | None, how: str) -> Stream:
    if how == "query" and last_event_id is not None:
        return await api.watch(f"/api/chat/resume/{session_id}?last_event_id={last_event_id}")
    return await api.back(session_id, last_event_id)


@SEEN
@HEADER_OR_QUERY
async def test_live(api: Api, models: Models, seen: str, how: str) -> None:
    first = await api.stream(models.plan(cue := Cue("a", "b", "c", "d")))
    await first.read_text("abcd")
    last_event_id, since = id_of(seen, first.ids, first.run_id)
    again = await back(api, first.session_id, last_event_id, how)
    assert (again.run_id, again.session_id) == (first.run_id, first.session_id)
    for text in "efgh":
        cue.say(text)
        await first.read_text(cue.said)
    cue.end()
    assert await again.rest() == (await first.rest())[since:]


@SEEN
@HEADER_OR_QUERY
async def test_when_it_has_ended(api: Api, models: Models, seen: str, how: str) -> None:
    first = await api.stream(models.plan(words(10, pause_s=0.005)[0]))
    await first.rest()
    last_event_id, since = id_of(seen, first.ids, first.run_id)
    if seen == "last":
        path = f"/api/chat/resume/{first.session_id}"
        headers = {"Last_Event_ID": first.last_id} if how == "header" else {}
        answer = await api.get(path + ("" if headers else f"?last_event_id={first.last_id}"), **headers)
        assert (answer.status, answer.json) == (204, b"")
        return
    assert await (await back(api, first.session_id, last_event_id, how)).rest() == first.frames[since:]


async def test_cut_at_every_event(api: Api, models: Models) -> None:
    first = await api.stream(models.plan(words(12, pause_s=0.003)[0]))
    await first.rest()
    for seen, last_event_id in enumerate(first.ids[:-1], 1):
        assert await (await api.back(first.session_id, last_event_id)).rest() == first.frames[seen:]


async def test_leaving_and_coming_back_all_the_time(api: Api, models: Models) -> None:
    """An EventSource whose connections break: together, what it gets is the stream."""
    script, said = words(40, pause_s=0.01)
    run = await api.accepted(models.plan(script))
    got: list[bytes] = []
    last_event_id = None
    while b"data: [DONE]\n\n" not in got:
        stream = await api.back(run["session_id"], last_event_id)
        while len(stream.frames) < 4 and await stream.read():
            pass
        got += stream.frames
        last_event_id = stream.last_id if stream.ids else last_event_id
        stream.close()
    whole = await api.back(run["session_id"])
    assert await whole.rest() == got
    assert whole.text == said


async def test_two_watchers(api: Api, models: Models) -> None:
    first = await api.stream(models.plan(cue := Cue("Hello")))
    watchers = [await api.back(first.session_id) for _ in range(2)]
    for watcher in watchers:
        await watcher.read_text("Hello")
    cue.say(" world")
    cue.end()
    frames = await asyncio.gather(*(stream.rest() for stream in (first, *watchers)))
    assert frames[0] == frames[1] == frames[2]


async def test_many_watchers(api: Api, models: Models) -> None:
    """Whenever they come, and wherever."""
    script, said = words(60, pause_s=0.01)
    first = await api.stream(models.plan(script))
    watchers = []
    for _ in range(15):
        watchers.append(await api.back(first.session_id))
        await asyncio.sleep(0.02)
    frames = await asyncio.gather(*(stream.rest() for stream in (first, *watchers)))
    assert first.text == said
    assert all(each == frames[0] for each in frames)


async def test_who_has_seen_all_waits_for_the_end(api: Api, models: Models) -> None:
    first = await api.stream(models.plan(Cue("Hello")))
    await first.read_text("Hello")
    again = await api.back(first.session_id, first.last_id)
    await api.stopped(first.session_id)
    await again.rest()
    assert again.kinds == ["ended"]


async def test_the_header_goes_before_the_query(api: Api, models: Models) -> None:
    """An EventSource keeps its URL; the header tells what it has seen since."""
    first = await api.stream(models.plan(say("Hello")))
    await first.rest()
    path = f"/api/chat/resume/{first.session_id}?last_event_id={first.ids[0]}"
    assert (await api.get(path, Last_Event_ID=first.last_id)).status == 204


async def test_an_id_of_an_older_run_replays_the_newer_one(api: Api, models: Models) -> None:
    first = await api.stream(models.plan(say("Hello")))
    await first.rest()
    second = await api.stream(models.plan(say("Bye")), session_id=first.session_id)
    await second.rest()
    for last_event_id in first.ids:
        assert await (await api.back(first.session_id, last_event_id)).rest() == second.frames


async def test_a_run_by_its_id(api: Api, models: Models) -> None:
    first = await api.stream(models.plan(say("Hello")))
    await first.rest()
    second = await api.stream(models.plan(say("Bye")), session_id=first.session_id)
    await second.rest()
    assert await (await api.back(first.session_id, run_id=first.run_id)).rest() == first.frames
    unknown = await api.get(f"/api/chat/resume/{first.session_id}?run_id=run_0123456789")
    assert error(unknown) == (404, "not_found")


async def test_a_session_that_never_streamed(api: Api) -> None:
    assert await api.back_status(await api.session()) == 204


async def test_a_session_that_is_none(api: Api) -> None:
    assert error(await api.get("/api/chat/resume/ses_0123456789")) == (404, "not_found")


async def test_a_direct_run_belongs_to_its_client(api: Api, models: Models) -> None:
    stream = await api.stream(models.plan(Cue("Hello")), compare_mode=True)
    await stream.read_text("Hello")
    assert await api.back_status(stream.session_id) == 204
    await api.stopped(stream.session_id)
    assert await api.back_status(stream.session_id) == 204

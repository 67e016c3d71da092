"""Keep: a compare pane becomes a chat, in the middle of its answer or afterwards, and nobody pays twice."""

from __future__ import annotations

import pytest

from tests.contract.client import Api, Stream, error
from tests.fake_upstream import say
from tests.process.models import Cue, Models, words
from tests.process.raw_client import LEAVINGS

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


async def pane_of(api: Api, prompt: str) -> tuple[Stream, str]:
    """Open a pane; return its stream and the path that keeps it."""
    made = await api.compare(prompt, "m", "n")
    return await api.watch(made["panes"][0]["stream"]), f"{made['panes'][0]['stream']}/keep"


async def test_its_client_reads_on(api: Api, models: Models) -> None:
    stream, path = await pane_of(api, prompt := models.plan(cue := Cue("Hello")))
    await stream.read_text("Hello")
    kept = (await api.post(path, {})).json
    assert (kept["session_id"], kept["run_id"], kept["status"]) == (stream.session_id, stream.run_id, "streaming")
    cue.say(" world")
    await stream.read_text("Hello world")
    cue.end()
    whole = await stream.rest()
    assert await (await api.watch(kept["stream"])).rest() == whole
    assert len(models.asked(prompt)) == 1
    assert (await api.answer(stream.session_id))["content"] == "Hello world"


@pytest.mark.parametrize("how", LEAVINGS)
async def test_it_goes_on_without_its_client(api: Api, models: Models, how: str) -> None:
    stream, path = await pane_of(api, models.plan(cue := Cue("Hello")))
    await stream.read_text("Hello")
    assert (await api.post(path, {})).status == 200
    again = await api.back(stream.session_id)
    await again.read_text("Hello")
    stream.leave(how)
    cue.say(" world")
    cue.end()
    assert await again.ending() == ("done", None)
    assert again.text == "Hello world"


async def test_it_is_kept_before_its_first_word(api: Api, models: Models) -> None:
    stream, path = await pane_of(api, models.plan(cue := Cue()))
    await stream.until("started")
    assert (await api.post(path, {})).status == 200
    stream.close()
    cue.say("Hello")
    cue.end()
    again = await api.back(stream.session_id)
    assert await again.ending() == ("done", None)


async def test_it_is_listed_and_goes_on_as_a_chat(api: Api, models: Models) -> None:
    stream, path = await pane_of(api, prompt := models.plan(say("Hello")))
    await stream.rest()
    listed = [session["id"] for session in (await api.read("/api/sessions"))["sessions"]]
    assert stream.session_id not in listed
    for _ in range(2):  # to keep it twice changes nothing
        kept = (await api.post(path, {})).json
        assert (kept["run_id"], kept["status"]) == (stream.run_id, "done")
    listed = [session["id"] for session in (await api.read("/api/sessions"))["sessions"]]
    assert stream.session_id in listed
    more = await api.stream(second := models.plan(say("Bye")), session_id=stream.session_id)
    assert await more.ending() == ("done", None)
    sent = [message["content"] for message in models.asked(second)[0].body["messages"]]
    assert sent == [prompt, "Hello", second]
    results = await api.read(path.rsplit("/", 2)[0])
    assert results["panes"][0]["session_id"] == stream.session_id
    assert [pane["kept"] for pane in results["panes"]] == [True, False]


async def test_what_has_ended_can_be_got_again(api: Api, models: Models) -> None:
    stream, path = await pane_of(api, models.plan(say("Hello")))
    await stream.rest()
    resume = f"/api/chat/resume/{stream.session_id}"
    assert (await api.get(resume)).status == 204
    assert (await api.post(path, {})).status == 200
    again = await api.watch(resume)
    assert await again.ending() == ("done", None)
    assert [payload["type"] for payload in again.payloads] == ["snapshot", "ended"]
    assert again.payloads[0]["content"] == "Hello"
    assert (await api.status(stream.session_id))["detached"] is True
    assert (await api.post(f"/api/chat/share/{stream.session_id}", {})).status == 201


async def test_it_can_still_be_stopped(api: Api, models: Models) -> None:
    stream, path = await pane_of(api, prompt := models.plan(Cue("Hello")))
    await stream.read_text("Hello")
    assert (await api.post(path, {})).status == 200
    receipt = await api.stopped(stream.session_id)
    assert (receipt["stopped"], receipt["status"], receipt["chars"]) == (True, "stopped", 5)
    await api.closed(prompt)
    assert await stream.ending() == ("stopped", "user_stop")


async def test_the_others_still_end_with_their_clients(api: Api, models: Models) -> None:
    script, _ = words(2000, pause_s=0.05)
    made = await api.compare(prompt := models.plan(script), "m", "n")
    one, other = [await api.watch(pane["stream"]) for pane in made["panes"]]
    for stream in (one, other):
        await stream.until("delta")
    assert (await api.post(f"{made['panes'][0]['stream']}/keep", {})).status == 200
    other.close()
    answer = await api.settled(other.session_id)
    assert answer[0]["stop_reason"] == "client_disconnect"
    assert (await api.status(one.session_id))["status"] == "streaming"
    assert (await api.status(one.session_id))["detached"] is True
    await api.stopped(one.session_id)
    assert len(models.asked(prompt)) == 2


async def test_what_can_not_be_kept(api: Api, models: Models) -> None:
    made = await api.compare(models.plan(say("Hello")), "m", "n")
    assert error(await api.post(f"{made['panes'][0]['stream']}/keep", {})) == (409, "not_started")
    assert error(await api.post(f"/api/compare/{made['compare_id']}/7/keep", {})) == (404, "not_found")
    assert error(await api.post("/api/compare/cmp_0123456789/0/keep", {})) == (404, "not_found")

"""Keep, where it meets a pane's end; what it is otherwise, tests/contract shows."""

from __future__ import annotations

import asyncio

import pytest

from odysseus.messages import Final
from odysseus.web.routes import SERVICE
from tests.fake_upstream import FakeUpstream, say
from tests.waiting import soon
from tests.web.conftest import Service


async def test_a_pane_that_is_being_saved(
    service: Service, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is kept when that has happened: until then, whoever came back would be told that there is nothing."""
    saves, saved, kept = asyncio.Event(), asyncio.Event(), asyncio.Event()
    store = service.app[SERVICE].store
    finish, keep = store.finish, store.keep

    async def slowly(final: Final) -> bool:
        saves.set()
        await saved.wait()
        return await finish(final)

    async def noted(session_id: str, owner: str) -> None:
        await keep(session_id, owner)
        kept.set()

    monkeypatch.setattr(store, "keep", noted)
    monkeypatch.setattr(service.app[SERVICE].turns.saves, "_finish", slowly)
    upstream.script = say("Hello")
    made = await service.compare("m", "n")
    path = made["panes"][0]["stream"]
    stream = await service.open("GET", path)
    await soon(saves.wait())
    keeping = asyncio.create_task(service.call("POST", f"{path}/keep"))
    status = await service.get(f"/api/chat/stream_status/{stream.session_id}")
    assert (status["status"], status["detached"]) == ("streaming", False)
    await soon(kept.wait())
    assert not keeping.done()
    saved.set()
    assert (await soon(keeping)).status == 200
    again = await service.open("GET", f"/api/chat/resume/{stream.session_id}")
    await again.rest()
    assert [payload["type"] for payload in again.seen[:-1]] == ["snapshot", "ended"]

"""One suite of promises for every database the store speaks to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from odysseus.answer import with_stopped_results
from odysseus.errors import NotFound, RunExists
from odysseus.events import Part
from odysseus.messages import Final, Message, Mode, Role, Turn
from odysseus.states import Status, StopReason
from odysseus.store import Database, Store
from odysseus.store.tables import sessions
from tests.waiting import at_once, soon

TURN = Turn(
    session_id="ses_1",
    owner="ann",
    message_id="msg_1",
    run_id="run_1",
    text="Hi\nthere",
    model="m",
    mode=Mode.CHAT,
    detached=True,
    system="Be brief.",
    new_session=True,
)
FINAL = Final(
    message_id="msg_1",
    status=Status.STOPPED,
    stop_reason=StopReason.USER_STOP,
    content="Hello",
    reasoning="Hm",
    parts=[{"type": "reasoning", "text": "Hm"}, {"type": "text", "text": "Hello"}],
    finish_reason="stop",
    usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    timings={"ttft_ms": 12.5, "duration_ms": 80.1},
    events=7,
    ended_at=datetime(2025, 2, 28, 23, 59, 59, 123456, tzinfo=UTC),
)
LATER = FINAL.ended_at + timedelta(microseconds=1)
DONE = replace(FINAL, status=Status.DONE, stop_reason=None, content="Bye", usage=None, timings=None, ended_at=LATER)
STRANGE = "\u00e4\u20ac\U0001f6a2\u2028\r\n\t'\"\\ %s :x \ufffd\u202e"


def turn(number: int, session_id: str = "ses_1", **changes: Any) -> Turn:
    """Return the turn of run *number*; the session's first one makes the session."""
    own: dict[str, Any] = {"session_id": session_id, "message_id": f"msg_{number}", "run_id": f"run_{number}"}
    return replace(TURN, **({"new_session": number == 1} | own | changes))


def near_now(time: datetime | None) -> bool:
    return time is not None and abs(datetime.now(UTC) - time) < timedelta(minutes=5)


async def answer(store: Store, run_id: str = "run_1") -> Message:
    message = await store.answer_of(run_id, "ann")
    assert message is not None
    return message


async def outcomes(*calls: Awaitable[Any]) -> list[Any]:
    """Run *calls* at once; return what each returned or raised."""
    return await soon(asyncio.gather(*calls, return_exceptions=True))


# Turns and answers


async def test_a_turn_begins_whole(store: Store) -> None:
    await store.begin(TURN)
    user, begun = await store.messages("ses_1")
    assert (user.role, user.content, user.status) == (Role.USER, "Hi\nthere", Status.DONE)
    assert (user.reasoning, user.parts) == ("", [{"type": "text", "text": "Hi\nthere"}])
    assert (user.run_id, user.model, user.usage, user.stop_reason, user.ended_at) == (None, None, None, None, None)
    assert begun == Message(
        id="msg_1",
        session_id="ses_1",
        role=Role.ASSISTANT,
        content="",
        reasoning="",
        parts=[],
        status=Status.STREAMING,
        created_at=begun.created_at,
        model="m",
        run_id="run_1",
        mode=Mode.CHAT,
        detached=True,
    )
    assert near_now(user.created_at) and near_now(begun.created_at)
    session = await store.session("ses_1", "ann")
    assert (session.title, session.model, session.system, session.compare_id) == ("Hi", "m", "Be brief.", None)


@pytest.mark.parametrize("failing", ["no session", "the run exists"])
async def test_a_turn_that_fails_leaves_nothing(store: Store, failing: str) -> None:
    await store.begin(TURN)
    before = await store.messages("ses_1"), await store.sessions("ann", limit=9)
    wrong, error = {
        "no session": (turn(2, "ses_9"), NotFound),
        "the run exists": (turn(2, "ses_2", run_id="run_1", new_session=True), RunExists),
    }[failing]
    with pytest.raises(error):
        await store.begin(wrong)
    assert (await store.messages("ses_1"), await store.sessions("ann", limit=9)) == before
    await store.begin(turn(2))


async def test_an_answer_ends_once(store: Store) -> None:
    await store.begin(TURN)
    assert await store.finish(FINAL) is True
    ended = await answer(store)
    assert ended == Message(
        id="msg_1",
        session_id="ses_1",
        role=Role.ASSISTANT,
        created_at=ended.created_at,
        model="m",
        run_id="run_1",
        mode=Mode.CHAT,
        detached=True,
        **{name: getattr(FINAL, name) for name in FINAL.__slots__ if name not in ("message_id", "ledger")},
    )
    assert await store.finish(DONE) is False
    assert await store.finish(FINAL) is True, "it is said again, because the answer to the first time was lost"
    await store.checkpoint("msg_1", "late", "late", [])
    assert await store.interrupt_streaming() == 0
    assert await answer(store) == ended


async def test_only_what_streams_ends(store: Store) -> None:
    await store.begin(TURN)
    [user, _] = await store.messages("ses_1")
    for message_id in (user.id, "msg_9", ""):
        assert await store.finish(replace(FINAL, message_id=message_id)) is False
        await store.checkpoint(message_id, "x", "x", [])
    assert (await store.messages("ses_1"))[0] == user


async def test_checkpoints(store: Store) -> None:
    await store.begin(TURN)
    for text in ("He", "Hello"):
        await store.checkpoint("msg_1", text, "Hm", [{"type": "text", "text": text}])
        kept = await answer(store)
        assert (kept.content, kept.reasoning, kept.parts) == (text, "Hm", [{"type": "text", "text": text}])
        assert (kept.status, kept.ended_at) == (Status.STREAMING, None)


async def test_two_processes_race_to_end_an_answer(stores: list[Store]) -> None:
    await stores[0].begin(TURN)
    for number in range(2, 22):
        await stores[0].begin(turn(number))
    for number in range(1, 22):
        finals = [replace(final, message_id=f"msg_{number}") for final in (FINAL, DONE)]
        won = await outcomes(*(store.finish(final) for store, final in zip(stores, finals, strict=True)))
        assert sorted(won) == [False, True]
        assert (await answer(stores[0], f"run_{number}")).content == finals[won.index(True)].content


async def test_many_endings_at_once(stores: list[Store]) -> None:
    """Written together, each answer ends once: by one of two processes, and by one of two callers in each."""
    await stores[0].begin(TURN)
    for number in range(2, 42):
        await stores[0].begin(turn(number))
    finals = [replace(final, message_id=f"msg_{n}") for n in range(1, 42) for final in (FINAL, DONE)]
    calls = [
        (replace(final, ended_at=final.ended_at + timedelta(seconds=place)), store)
        for final in finals
        for place, store in enumerate(stores)
    ]
    won = await outcomes(*(store.finish(final) for final, store in calls))
    kept = {message.id: message.content for message in await stores[0].messages("ses_1")}
    winners = [final for (final, _), first in zip(calls, won, strict=True) if first]
    assert [(final.message_id, final.content) for final in winners] == [
        (f"msg_{n}", kept[f"msg_{n}"]) for n in range(1, 42)
    ]


async def test_an_ending_that_cannot_be_stored_holds_up_no_other(store: Store) -> None:
    await store.begin(TURN)
    for number in range(2, 12):
        await store.begin(turn(number))
    finals = [replace(FINAL, message_id=f"msg_{n}", content="\ud800" if n == 5 else "x") for n in range(1, 12)]
    ended = await asyncio.gather(*map(store.finish, finals), return_exceptions=True)
    assert [outcome is True for outcome in ended] == [n != 5 for n in range(1, 12)]


async def test_checkpoints_never_overtake_the_end(stores: list[Store]) -> None:
    await stores[0].begin(TURN)
    late = [store.checkpoint("msg_1", f"{n}", "", []) for n in range(10) for store in stores]
    assert (await outcomes(*late[:10], stores[1].finish(FINAL), *late[10:])).count(True) == 1
    assert (await answer(stores[0])).content == "Hello"


async def test_what_a_dead_process_left(stores: list[Store]) -> None:
    await stores[0].begin(TURN)
    await stores[0].begin(turn(2))
    parts: list[Part] = [
        {"type": "text", "text": "Hel"},
        {"type": "tool_call", "call_id": "c1", "name": "add", "arguments": {"a": [1, None]}},
    ]
    await stores[0].checkpoint("msg_1", "Hel", "", parts)
    await stores[0].finish(replace(DONE, message_id="msg_2"))
    ended = await answer(stores[0], "run_2")
    assert (ended.usage, ended.timings, ended.stop_reason) == (None, None, None)
    assert await stores[1].interrupt_streaming() == 1
    lost = await answer(stores[1])
    assert (lost.status, lost.stop_reason) == (Status.INTERRUPTED, StopReason.NODE_LOST)
    assert (lost.content, lost.parts, lost.events) == ("Hel", with_stopped_results(parts), None)
    assert near_now(lost.ended_at) and await answer(stores[1], "run_2") == ended
    assert await stores[0].finish(FINAL) is False
    assert await stores[1].interrupt_streaming() == 0


async def test_the_order_of_a_session(store: Store) -> None:
    """It is that of the turns, whatever ended first; other sessions have no part in it."""
    for number in (1, 2, 3):
        await store.begin(turn(number, text=f"Q{number}"))
        await store.begin(turn(number + 10, f"ses_{number + 10}", new_session=True))
    for number in (3, 1, 2):
        await store.finish(replace(DONE, message_id=f"msg_{number}", content=f"A{number}"))
    assert [message.content for message in await store.messages("ses_1")] == ["Q1", "A1", "Q2", "A2", "Q3", "A3"]
    for number, before in ((1, ["Q1"]), (2, ["Q1", "A1", "Q2"]), (3, ["Q1", "A1", "Q2", "A2", "Q3"])):
        assert [message.content for message in await store.history(turn(number))] == before
    latest = await store.latest_answer("ses_1")
    assert latest is not None and latest.run_id == "run_3"
    assert [await store.latest_answer("ses_9"), await store.answer_of("run_9", "ann")] == [None, None]
    assert (await store.messages("ses_9"), await store.history(turn(9, "ses_9"))) == ([], [])


@pytest.mark.parametrize("text", [STRANGE, "x" * 1024 * 1024, "\U0001f6a2" * 300_000], ids=["strange", "long", "wide"])
async def test_texts_come_back_as_they_were(store: Store, text: str) -> None:
    await store.begin(turn(1, text=text, model=STRANGE, system=text))
    final = replace(FINAL, content=text, reasoning=text, parts=[{"type": "text", "text": text}], finish_reason=STRANGE)
    await store.checkpoint("msg_1", text, text, final.parts)
    assert (await answer(store)).content == text
    assert await store.finish(final)
    ended = await answer(store)
    assert (ended.content, ended.reasoning, ended.parts) == (text, text, final.parts)
    assert (ended.model, ended.finish_reason) == (STRANGE, STRANGE)
    assert (await store.messages("ses_1"))[0].content == text
    assert (await store.session("ses_1", "ann")).system == text


# Sessions


async def listed(store: Store, limit: int = 100, before: str | None = None) -> list[str]:
    return [session.id for session in await store.sessions("ann", limit=limit, before=before)]


async def test_sessions(store: Store) -> None:
    made = await store.create_session("ann", title="T", model="m", system="S")
    bare = await store.create_session("ann", title=None, model=None, system=None)
    assert (made.title, made.model, made.system, made.compare_id) == ("T", "m", "S", None)
    assert near_now(made.created_at) and made.created_at == made.updated_at
    assert await store.session(made.id, "ann") == made
    assert await store.session(bare.id, "ann") == bare
    changed = await store.change_session(made.id, "ann", title=None, model="n")
    assert (changed.title, changed.model, changed.system) == (None, "n", "S")
    assert changed.updated_at > made.updated_at and changed.created_at == made.created_at
    assert await store.session(made.id, "ann") == changed
    assert await store.session(bare.id, "ann") == bare
    await store.delete_session(made.id, "ann")
    for missing in (
        store.session(made.id, "ann"),
        store.change_session(made.id, "ann", title="T"),
        store.delete_session(made.id, "ann"),
        store.sessions("ann", limit=1, before=made.id),
    ):
        with pytest.raises(NotFound):
            await missing


async def test_pages_of_sessions_newest_first(database: Database, store: Store) -> None:
    """Also where several were used in the same microsecond."""
    time = datetime(2025, 1, 1, tzinfo=UTC)
    ages = [3, 1, 1, 1, 2, 0, 3]

    async def work(connection: AsyncConnection) -> None:
        for number, age in enumerate(ages):
            row = {"id": f"ses_{number}", "owner": "ann", "created_at": time, "updated_at": time - timedelta(hours=age)}
            await connection.execute(sessions.insert().values(row))

    await database.write(work)
    newest_first = ["ses_5", "ses_3", "ses_2", "ses_1", "ses_4", "ses_6", "ses_0"]
    assert await listed(store) == newest_first
    for size in range(1, 8):
        got: list[str] = []
        while page := await listed(store, size, got[-1] if got else None):
            assert len(page) <= size
            got += page
        assert got == newest_first
    assert [session.updated_at.tzinfo for session in await store.sessions("ann", limit=1)] == [UTC]


async def test_what_is_used_comes_first(store: Store) -> None:
    first, second = [(await store.create_session("ann", title=None, model=None, system=None)).id for _ in range(2)]
    assert await listed(store) == [second, first]
    await store.begin(turn(7, first, text="\n\n  A title \u2028 and more"))
    assert await listed(store) == [first, second]
    await store.change_session(second, "ann", title="Mine")
    assert await listed(store) == [second, first]
    await store.begin(turn(8, second))
    assert [(await store.session(id_, "ann")).title for id_ in (first, second)] == ["A title", "Mine"]


async def test_a_deleted_session_takes_its_messages_along(store: Store) -> None:
    await store.begin(TURN)
    await store.begin(turn(2, "ses_2", new_session=True))
    await store.delete_session("ses_1", "ann")
    assert await store.messages("ses_1") == []
    assert await store.answer_of("run_1", "ann") is None
    assert await store.finish(FINAL) is False
    await store.checkpoint("msg_1", "x", "x", [])
    assert len(await store.messages("ses_2")) == 2
    with pytest.raises(NotFound):
        await store.begin(turn(3))


@pytest.mark.parametrize("odd", ["", "a" * 100_000, STRANGE, "'; DROP TABLE sessions; --", "a\0b"])
async def test_ids_that_cannot_be(store: Store, odd: str) -> None:
    assert await store.answer_of(odd, "ann") is None
    assert await store.messages(odd) == []
    for missing in (store.session(odd, "ann"), store.compare(odd, "ann"), store.delete_session(odd, "ann")):
        with pytest.raises(NotFound):
            await missing


# Compares


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
async def test_cancelled_in_mid_transaction(database: Database, store: Store, fails: bool) -> None:
    """The caller leaves at once; what it began becomes whole, or nothing."""
    inside, go_on = asyncio.Event(), asyncio.Event()
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work(connection: AsyncConnection) -> None:
        for number in (1, 2):
            time = datetime.now(UTC)
            values = {"id": f"ses_{number}", "owner": "ann", "created_at": time, "updated_at": time}
            await connection.execute(sessions.insert().values(values))
            inside.set()
            await go_on.wait()
        asyncio.get_running_loop().call_later(0, ended.set_result, None)
        if fails:
            await connection.execute(sa.text("SELECT * FROM nowhere"))

    caller = asyncio.create_task(database.write(work))
    await soon(inside.wait())
    with at_once():
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
    assert await listed(store) == []
    go_on.set()
    await soon(ended)
    made = await store.create_session("ann", title=None, model=None, system=None)  # after it, where there is one writer
    await database.close()
    assert set(await listed(store)) == {made.id} | (set() if fails else {"ses_1", "ses_2"})


async def test_cancelled_at_any_moment(store: Store) -> None:
    """Cuts calls at many places. A turn is there with both its messages, or isn't; the store goes on working."""
    await store.begin(TURN)
    for number in range(2, 42):
        caller = asyncio.create_task(store.begin(turn(number)))
        for _ in range(number * 10):
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait({caller})
    assert await soon(store.finish(FINAL))
    await soon(store.begin(turn(99)))
    roles = [message.role for message in await store.messages("ses_1")]
    assert roles == [Role.USER, Role.ASSISTANT] * (len(roles) // 2)
    assert (await answer(store, "run_99")).status is Status.STREAMING


async def test_many_at_once(stores: list[Store]) -> None:
    await stores[0].begin(TURN)
    got = await outcomes(*(stores[number % 2].begin(turn(number)) for number in range(2, 62)))
    assert got == [None] * 60
    messages = await stores[1].messages("ses_1")
    assert [message.role for message in messages] == [Role.USER, Role.ASSISTANT] * 61

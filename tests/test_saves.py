from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odysseus import saves as saves_module
from odysseus.messages import Final
from odysseus.saves import FileSpool, Saves
from odysseus.states import Status, StopReason
from odysseus.tasks import Tasks
from tests.virtual_time import now, run_virtual

FINAL = Final(
    message_id="msg_1",
    status=Status.STOPPED,
    stop_reason=StopReason.USER_STOP,
    content="Hel\r\n\u2028\x00 \U0001f6a2",
    reasoning="Hm",
    parts=[{"type": "reasoning", "text": "Hm"}, {"type": "text", "text": "Hel\r\n\u2028\x00 \U0001f6a2"}],
    finish_reason=None,
    usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    timings={"ttft_ms": 12.5, "duration_ms": 80.1},
    events=7,
    ended_at=datetime(2025, 2, 28, 23, 59, 59, 123456, tzinfo=UTC),
)
OTHER = replace(FINAL, message_id="msg_2", usage=None, timings=None, status=Status.DONE, stop_reason=None)


class Store:
    """A compare-and-set. *script* says what becomes of each call; after its end all goes well."""

    def __init__(self, *script: str, ended: Iterable[Final] = ()) -> None:
        self.rows = {final.message_id: final for final in ended}
        self.calls: list[float] = []
        """When each call came."""
        self.committed: list[str] = []
        self.script = list(script)

    async def finish(self, final: Final) -> bool:
        self.calls.append(now())
        match self.script.pop(0) if self.script else "works":
            case "fails":
                raise ConnectionError("the store")
            case "hangs":
                await asyncio.get_running_loop().create_future()
            case "commits, then hangs":
                self._commit(final)
                await asyncio.get_running_loop().create_future()
            case "takes 3 s":
                await asyncio.sleep(3)
        return self._commit(final)

    def _commit(self, final: Final) -> bool:
        if final.message_id in self.rows:
            return False
        self.rows[final.message_id] = final
        self.committed.append(final.message_id)
        return True


class MemorySpool:
    """Its first `failing` puts fail."""

    def __init__(self, failing: int = 0, held: Iterable[Final] = ()) -> None:
        self.held = {final.message_id: final for final in held}
        self.failing = failing

    async def put(self, final: Final) -> None:
        await asyncio.sleep(0)
        if self.failing:
            self.failing -= 1
            raise OSError("the disk is full")
        self.held[final.message_id] = final

    async def all(self) -> list[Final]:
        await asyncio.sleep(0)
        return list(self.held.values())

    async def remove(self, message_id: str) -> None:
        await asyncio.sleep(0)
        self.held.pop(message_id, None)


class House:
    """A store, a spool, and the `Saves` between them."""

    def __init__(self, store: Store | None = None, spool: MemorySpool | None = None) -> None:
        self.store = store or Store()
        self.spool = spool or MemorySpool()
        self.tasks = Tasks()
        self.saves = Saves(self.store.finish, self.spool, self.tasks)


@pytest.mark.parametrize(
    ("script", "calls", "took", "spooled"),
    [
        pytest.param([], [0], 0, False, id="success"),
        pytest.param(["fails"], [0, 0.1], 0.1, False, id="fails once"),
        pytest.param(["fails", "fails"], [0, 0.1, 0.6], 0.6, False, id="fails twice"),
        pytest.param(["fails"] * 3, [0, 0.1, 0.6], 0.6, True, id="fails three times"),
        pytest.param(["takes 3 s"], [0], 3, False, id="slow"),
        pytest.param(["hangs"], [0, 5.1], 5.1, False, id="hangs once"),
        pytest.param(["hangs"] * 3, [0, 5.1, 10.6], 15.6, True, id="hangs"),
        pytest.param(["commits, then hangs"], [0, 5.1], 5.1, False, id="commits without an answer"),
    ],
)
def test_save(script: list[str], calls: list[float], took: float, spooled: bool) -> None:
    async def main() -> None:
        house = House(Store(*script))
        await house.saves.save(FINAL)
        assert (house.store.calls, now()) == (calls, took)
        assert house.store.rows == ({} if spooled else {"msg_1": FINAL})
        assert house.spool.held == ({"msg_1": FINAL} if spooled else {})
        assert house.saves.spooled == spooled
        assert house.saves.retried == len([each for each in script if each != "takes 3 s"])
        house.saves.close()
        await house.tasks.drain(0)

    run_virtual(main())


def test_a_message_that_had_ended_stays_as_it_is() -> None:
    async def main() -> None:
        house = House(Store(ended=[FINAL]))
        await house.saves.save(replace(FINAL, content="a second ending"))
        assert house.store.rows == {"msg_1": FINAL}
        assert (len(house.store.calls), house.saves.retried, house.spool.held) == (1, 0, {})

    run_virtual(main())


@pytest.mark.parametrize(
    ("failing", "script", "where"),
    [
        pytest.param(2, ["fails"] * 9, "spool", id="until the spool works"),
        pytest.param(999, ["fails"] * 7, "store", id="until the store works"),
    ],
)
def test_neither_works(failing: int, script: list[str], where: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        house = House(Store(*script), MemorySpool(failing=failing))
        await house.saves.save(FINAL)
        assert (house.store.rows, house.spool.held)[where == "spool"] == {"msg_1": FINAL}
        assert (house.store.rows, house.spool.held)[where == "store"] == {}
        assert now() == (11.8 if where == "spool" else 11.3)
        house.saves.close()
        await house.tasks.drain(0)

    run_virtual(main())
    assert [record.message for record in caplog.records if record.exc_info] == [
        "message msg_1: neither the store nor the spool took the answer"
    ] * 2


def test_the_spool_is_emptied_when_the_store_is_back() -> None:
    """Not only at the next start."""

    async def main() -> None:
        house = House(Store(*["fails"] * 3, *["fails", "hangs"]))
        await house.saves.save(FINAL)
        await asyncio.sleep(3600)
        assert house.store.calls[3:] == [5.6, 10.6, 20.6]  # the one that hangs is given up after 5 s
        assert (house.store.rows, house.spool.held) == ({"msg_1": FINAL}, {})

        house.store.script = ["fails"] * 3  # it looks again when it has to
        await house.saves.save(OTHER)
        assert house.spool.held == {"msg_2": OTHER}
        await asyncio.sleep(5.1)
        assert (house.store.committed, house.spool.held) == (["msg_1", "msg_2"], {})

    run_virtual(main())


def test_one_look_at_the_spool_serves_all_that_is_in_it() -> None:
    async def main() -> None:
        house = House(Store(*["fails"] * 6))
        await asyncio.gather(house.saves.save(FINAL), house.saves.save(OTHER))
        assert (house.store.rows, len(house.spool.held), house.saves.spooled) == ({}, 2, 2)
        await asyncio.sleep(3600)
        assert (sorted(house.store.committed), house.store.calls[6:]) == (["msg_1", "msg_2"], [5.6, 5.6])

    run_virtual(main())


def test_close_leaves_the_spool_to_the_next_start() -> None:
    async def main() -> None:
        house = House(Store(*["fails"] * 3))
        await house.saves.save(FINAL)
        house.saves.close()
        await asyncio.sleep(60)
        assert (house.store.rows, house.spool.held) == ({}, {"msg_1": FINAL})

        started = House(house.store, house.spool)
        assert await started.saves.recover() == 1
        assert (house.store.rows, house.spool.held) == ({"msg_1": FINAL}, {})

    run_virtual(main())


@pytest.mark.parametrize(
    ("ended", "held", "committed"),
    [([], [], []), ([], [FINAL, OTHER], ["msg_1", "msg_2"]), ([FINAL], [FINAL, OTHER], ["msg_2"])],
    ids=["nothing", "two", "one that had been stored"],
)
def test_recover(ended: list[Final], held: list[Final], committed: list[str]) -> None:
    async def main() -> None:
        house = House(Store(ended=ended), MemorySpool(held=held))
        assert await house.saves.recover() == len(held)
        assert (house.store.committed, house.spool.held) == (committed, {})
        assert await house.saves.recover() == 0

    run_virtual(main())


def test_recover_keeps_what_the_store_does_not_take() -> None:
    async def main() -> None:
        house = House(Store("fails", "works"), MemorySpool(held=[OTHER, FINAL]))
        assert await house.saves.recover() == 1
        assert (house.store.rows, house.spool.held) == ({"msg_1": FINAL}, {"msg_2": OTHER})
        assert await house.saves.waiting() == {"msg_2"}
        await asyncio.sleep(5.1)  # it doesn't wait for the next start
        assert (list(house.store.rows), house.spool.held) == (["msg_1", "msg_2"], {})

    run_virtual(main())


outcomes = st.sampled_from(["works", "fails", "hangs", "commits, then hangs", "takes 3 s"])


@settings(deadline=None)
@given(st.lists(outcomes, max_size=25), st.integers(0, 3))
def test_an_answer_is_never_lost(script: list[str], failing: int) -> None:
    """However the store and the spool fail: it is somewhere when `save` returns, and once in the store in the end."""

    async def main() -> None:
        house = House(Store(*script), MemorySpool(failing=failing))
        await house.saves.save(FINAL)
        assert FINAL in (*house.store.rows.values(), *house.spool.held.values())
        await asyncio.sleep(600)
        assert (house.store.committed, house.store.rows, house.spool.held) == (["msg_1"], {"msg_1": FINAL}, {})

    run_virtual(main())


@settings(deadline=None)
@given(st.lists(outcomes, max_size=5), st.lists(st.integers(0, 200), min_size=1, max_size=6).map(sorted))
def test_cancels_do_not_stop_a_save(script: list[str], cancels: list[int]) -> None:
    """*cancels*: tenths of a second."""

    async def main() -> None:
        house = House(Store(*script))
        caller = asyncio.create_task(house.tasks.finish(house.saves.save(FINAL)))
        await asyncio.sleep(0)
        cancelled = False
        for at in cancels:
            await asyncio.sleep(at / 10 - now())
            cancelled |= caller.cancel()
        await asyncio.wait({caller})
        assert caller.cancelled() == cancelled
        assert FINAL in (*house.store.rows.values(), *house.spool.held.values())
        await asyncio.sleep(600)
        assert (house.store.committed, house.spool.held) == (["msg_1"], {})

    run_virtual(main())


# The spool of files works in threads, so it runs in real time; nothing in it waits.


async def test_files_come_back_as_they_were(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path / "not" / "yet" / "there")
    assert await spool.all() == []
    for final in (OTHER, FINAL):
        await spool.put(final)
    assert await FileSpool(tmp_path / "not" / "yet" / "there").all() == [FINAL, OTHER]
    await spool.remove("msg_1")
    await spool.remove("msg_1")
    assert await spool.all() == [OTHER]


async def test_a_second_put_replaces_the_first(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    await spool.put(FINAL)
    await spool.put(again := replace(FINAL, content="again"))
    assert await spool.all() == [again]


async def test_a_file_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is on the disk before it gets its name, and the name before `put` returns."""
    synced: list[tuple[str, list[str]]] = []

    def fsync(fd: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
        synced.append((kind, sorted(path.name for path in tmp_path.iterdir())))

    monkeypatch.setattr(os, "fsync", fsync)
    await FileSpool(tmp_path).put(FINAL)
    assert synced == [("file", ["msg_1.partial"]), ("folder", ["msg_1.json"])]


async def test_a_failed_put_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = FileSpool(tmp_path)
    await spool.put(FINAL)

    def full(fd: int) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            await spool.put(replace(FINAL, content="never whole"))
        with pytest.raises(OSError, match="no space"):
            await spool.put(OTHER)
    assert await spool.all() == [FINAL]
    await spool.put(OTHER)
    assert await spool.all() == [FINAL, OTHER]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:-20],
        lambda content: b"\xff" + content,
        lambda content: b"{}",
        lambda content: content.replace(b'"stopped"', b'"unheard of"'),
    ],
    ids=["empty", "cut", "not UTF-8", "no fields", "a status of a later version"],
)
async def test_an_unreadable_file_is_set_aside(
    spoil: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = FileSpool(tmp_path)
    await spool.put(FINAL)
    await spool.put(OTHER)
    path = tmp_path / "msg_1.json"
    path.write_bytes(content := spoil(path.read_bytes()))

    store = Store()
    assert await Saves(store.finish, spool, Tasks()).recover() == 1
    assert store.rows == {"msg_2": OTHER}
    assert files(tmp_path) == {"msg_1.unreadable": content}
    assert "msg_1.json" in caplog.text


async def test_from_a_broken_store_over_a_file_to_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saves_module, "_PAUSES_S", (0, 0))
    tasks = Tasks()
    broken = Saves(Store(*["fails"] * 3).finish, FileSpool(tmp_path), tasks)
    await broken.save(FINAL)
    assert list(files(tmp_path)) == ["msg_1.json"]
    broken.close()
    await tasks.drain(1)

    store = Store()
    assert await Saves(store.finish, FileSpool(tmp_path), Tasks()).recover() == 1
    assert store.rows == {"msg_1": FINAL}
    assert files(tmp_path) == {}


def test_what_is_spooled_while_the_spool_is_emptied_leaves_it_too() -> None:
    async def main() -> None:
        house = House(Store("fails", "fails", "fails", "takes 3 s", "fails", "fails", "fails"), MemorySpool())
        await house.saves.save(FINAL)
        await asyncio.sleep(5.1)  # the store takes its 3 s over the first answer
        await house.saves.save(OTHER)
        assert list(house.spool.held) == ["msg_1", "msg_2"]
        await asyncio.sleep(600)
        assert (house.spool.held, list(house.store.rows)) == ({}, ["msg_1", "msg_2"])

    run_virtual(main())


def test_no_look_at_the_spool_after_close() -> None:
    async def main() -> None:
        house = House(Store("fails", "fails", "fails"), MemorySpool())
        house.saves.close()
        await house.saves.save(FINAL)

    run_virtual(main())

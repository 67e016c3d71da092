"""The screen in front of real terminals, as a program that draws on one sees them: pseudo-terminals, and files."""

from __future__ import annotations

import asyncio
import os
import termios
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import pytest

from odysseus.terminal import OutputClosed, Screen
from odysseus.transcript import Kind, Show
from tests.waiting import soon

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Desk:
    """A terminal, and the files that stdout and stderr may be instead."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.master, slave = os.openpty()
        stack.callback(os.close, self.master)
        modes = termios.tcgetattr(slave)
        modes[1] &= ~termios.OPOST  # what is written comes out as it is
        modes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        self.ends = [stack.enter_context(os.fdopen(os.dup(slave), mode, newline="")) for mode in ("r", "w", "w")]
        os.close(slave)
        self.files = [stack.enter_context((folder / name).open("w+", newline="")) for name in ("out", "err")]

    def screen(self, *, out: bool = True, err: bool = True, stdin: bool = True) -> Screen:
        """Return a screen whose streams are the terminal, or files."""
        given: TextIO = self.ends[0] if stdin else self.files[0]
        return Screen(given, self.ends[1] if out else self.files[0], self.ends[2] if err else self.files[1])

    def seen(self) -> str:
        """Return what the terminal was told since the last look."""
        os.write(self.ends[1].fileno(), b"\0")  # so that there is something to read, and its end is known
        data = b""
        while not data.endswith(b"\0"):
            data += os.read(self.master, 65536)
        return data[:-1].decode()

    def filed(self) -> tuple[str, str]:
        out, err = (Path(file.name).read_bytes().decode() for file in self.files)
        return out, err


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with ExitStack() as stack:
        yield Desk(stack, tmp_path)


TEXT, MORE = Show(Kind.TEXT, "Hello"), Show(Kind.TEXT, " world\n")
THOUGHT, NOTE = Show(Kind.REASONING, "Hm"), Show(Kind.NOTE, "clock: noon")
EVIL = Show(Kind.TEXT, "a\x1b[2J\r\n\x9bb\tc")


@pytest.mark.parametrize(
    ("shows", "seen"),
    [
        ([TEXT, MORE], "Hello world\n"),
        ([TEXT], "Hello\n"),
        ([TEXT, NOTE, MORE], f"Hello\n{DIM}clock: noon{PLAIN}\n world\n"),
        ([TEXT, NOTE], f"Hello\n{DIM}clock: noon{PLAIN}\n"),
        ([NOTE, TEXT], f"{DIM}clock: noon{PLAIN}\nHello\n"),
        ([THOUGHT, THOUGHT, TEXT], f"{DIM}Hm{PLAIN}{DIM}Hm{PLAIN}\nHello\n"),
        ([TEXT, THOUGHT, NOTE], f"Hello\n{DIM}Hm{PLAIN}\n{DIM}clock: noon{PLAIN}\n"),
        ([Show(Kind.REASONING, "Hm\x1b[2J\n"), TEXT], f"{DIM}Hm[2J\n{PLAIN}Hello\n"),
        ([Show(Kind.TEXT, ""), Show(Kind.REASONING, "\x1b")], ""),
        ([Show(Kind.PROBLEM, "no")], "odysseus: no\n"),
        ([EVIL], "a[2J\nb\tc\n"),
    ],
)
def test_a_terminal(desk: Desk, shows: list[Show], seen: str) -> None:
    screen = desk.screen()
    for show in shows:
        screen.show(show)
    screen.finish()
    assert desk.seen() == seen


ALL = [THOUGHT, TEXT, NOTE, MORE, EVIL, NOTE, Show(Kind.PROBLEM, "no")]


@pytest.mark.parametrize(
    ("out", "err", "seen", "filed"),
    [
        (False, False, "", ("Hello world\na\x1b[2J\r\n\x9bb\tc\n", "clock: noon\nclock: noon\nodysseus: no\n")),
        (True, False, "Hello world\na[2J\nb\tc\n", ("", "clock: noon\nclock: noon\nodysseus: no\n")),
        (
            False,
            True,
            f"{DIM}Hm{PLAIN}\n{DIM}clock: noon{PLAIN}\n{DIM}clock: noon{PLAIN}\nodysseus: no\n",
            ("Hello world\na\x1b[2J\r\n\x9bb\tc\n", ""),
        ),
    ],
)
def test_files(desk: Desk, out: bool, err: bool, seen: str, filed: tuple[str, str]) -> None:
    screen = desk.screen(out=out, err=err)
    for show in ALL:
        screen.show(show)
    screen.finish()
    assert (desk.seen(), desk.filed()) == (seen, filed)


def test_notes_are_one_line(desk: Desk) -> None:
    screen = desk.screen()
    screen.note("a\nb\x1b")
    screen.problem("c\nd\x07")
    assert desk.seen() == f"{DIM}a b\\x1b{PLAIN}\nodysseus: c d\\x07\n"


def test_nobody_reads(desk: Desk) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        screen = Screen(desk.ends[0], pipe, desk.ends[2])
        with pytest.raises(OutputClosed, match="Broken pipe"):
            screen.show(TEXT)
        pipe.write("what is still in its buffer")  # would raise when it is closed


def test_nobody_is_left_to_tell(desk: Desk) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as pipe:
        Screen(desk.ends[0], desk.ends[1], pipe).note("anybody?")
        os.dup2(desk.ends[1].fileno(), pipe.fileno())  # or closing it would raise
    assert desk.seen() == "anybody?\n"


# Questions


async def test_an_answer(desk: Desk) -> None:
    screen = desk.screen()
    screen.show(TEXT)
    os.write(desk.master, b"y\n")  # before anybody has asked
    asking = asyncio.create_task(screen.ask("sure?"))
    await asyncio.sleep(0)
    assert desk.seen() == "Hello\nsure? "
    os.write(desk.master, b" no \n")
    assert await soon(asking) == "no"
    screen.show(MORE)
    assert desk.seen() == " world\n"


async def test_one_question_at_a_time(desk: Desk) -> None:
    screen = desk.screen()
    first, second = asyncio.create_task(screen.ask("first?")), asyncio.create_task(screen.ask("second?"))
    await asyncio.sleep(0)
    assert desk.seen() == "first? "
    first.cancel()
    await asyncio.wait({first})
    await asyncio.sleep(0)
    assert desk.seen() == "\nsecond? "
    os.write(desk.master, b"\n")
    assert await soon(second) == ""


async def test_the_end_of_the_input(desk: Desk) -> None:
    screen = desk.screen()
    asking = asyncio.create_task(screen.ask("sure?"))
    await asyncio.sleep(0)
    desk.seen()
    os.write(desk.master, b"\x04")
    assert await soon(asking) is None


@pytest.mark.parametrize(("stdin", "err", "can"), [(True, True, True), (False, True, False), (True, False, False)])
def test_who_can_be_asked(desk: Desk, stdin: bool, err: bool, can: bool) -> None:
    assert desk.screen(stdin=stdin, err=err).can_ask == can

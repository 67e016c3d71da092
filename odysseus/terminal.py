"""A terminal, or the files that stand in for it: the model's answer goes to stdout, everything else to stderr."""

from __future__ import annotations

import asyncio
import os
import termios
from typing import TextIO

from odysseus.transcript import Kind, Show, clean, one_line

__all__ = ["OutputClosed", "Screen"]

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class OutputClosed(Exception):
    """Stdout takes nothing any more; the text says why."""


class Screen:
    """What goes to a terminal is cleaned of control characters; what goes to a file or a pipe is left as it is."""

    def __init__(self, stdin: TextIO, stdout: TextIO, stderr: TextIO) -> None:
        self.can_ask = stdin.isatty() and stderr.isatty()
        """Whether somebody is there to be asked."""
        self._stdin, self._stdout, self._stderr = stdin, stdout, stderr
        self._shows_text = stdout.isatty()
        self._shows_notes = stderr.isatty()
        self._unfinished: Kind | None = None
        """What stands on the terminal's last line, if that has no end yet."""
        self._text_open = False
        """Whether the text on stdout lacks the end of its last line."""
        self._asking = asyncio.Lock()

    def show(self, what: Show) -> None:
        """Raises `OutputClosed`."""
        match what:
            case Show(Kind.TEXT, text):
                self._text(clean(text) if self._shows_text else text)
            case Show(Kind.REASONING, text):
                self._reasoning(clean(text))
            case Show(Kind.NOTE, text):
                self._line(f"{_DIM}{text}{_PLAIN}" if self._shows_notes else text)
            case Show(Kind.PROBLEM, text):
                self._line(f"odysseus: {text}")

    def note(self, text: str) -> None:
        self.show(Show(Kind.NOTE, one_line(text)))

    def problem(self, text: str) -> None:
        self.show(Show(Kind.PROBLEM, one_line(text)))

    def finish(self) -> None:
        """End the text's last line, for whatever comes after it. Raises `OutputClosed`."""
        if self._text_open and (self._unfinished is Kind.TEXT or not self._shows_text):
            self._text("\n")

    async def ask(self, question: str) -> str | None:
        """Ask, after whoever asked before, and return the line that is typed; None at the end of the input."""
        async with self._asking:
            self._break_line()
            # What was typed before the question isn't the answer to it; what is typed as soon as it stands there, is.
            termios.tcflush(self._stdin.fileno(), termios.TCIFLUSH)
            self._tell(f"{question} ")
            self._unfinished = Kind.NOTE
            line = await self._typed()
            self._unfinished = None
            return line

    async def _typed(self) -> str | None:
        loop, fd = asyncio.get_running_loop(), self._stdin.fileno()
        typed: asyncio.Future[bytes] = loop.create_future()

        def read() -> None:
            loop.remove_reader(fd)
            if not typed.done():
                typed.set_result(os.read(fd, 4096))  # a terminal gives a line at a time

        loop.add_reader(fd, read)
        try:
            line = await typed
            return line.decode(errors="replace").strip() if line else None
        finally:
            loop.remove_reader(fd)

    def _text(self, text: str) -> None:
        if not text:
            return
        if self._shows_text and self._unfinished is not Kind.TEXT:
            self._break_line()
        try:
            self._stdout.write(text)
            self._stdout.flush()
        except OSError as error:
            self._let_go_of_stdout()
            raise OutputClosed(error.strerror) from error
        self._text_open = not text.endswith("\n")
        if self._shows_text:
            self._unfinished = Kind.TEXT if self._text_open else None

    def _reasoning(self, text: str) -> None:
        if not text or not self._shows_notes:
            return
        if self._unfinished is not Kind.REASONING:
            self._break_line()
        self._tell(f"{_DIM}{text}{_PLAIN}")
        self._unfinished = None if text.endswith("\n") else Kind.REASONING

    def _line(self, line: str) -> None:
        self._break_line()
        self._tell(f"{line}\n")

    def _break_line(self) -> None:
        if self._unfinished is not None and self._shows_notes:
            self._tell("\n")
            self._unfinished = None

    def _tell(self, text: str) -> None:
        try:
            self._stderr.write(text)
            self._stderr.flush()
        except OSError:
            pass  # there is nobody left to tell

    def _let_go_of_stdout(self) -> None:
        """Give what is still in its buffer somewhere to go, or Python would complain when it ends."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stdout.fileno())
        os.close(nothing)

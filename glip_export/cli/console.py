"""The terminal: how a command runs on it, fails on it, and writes numbers."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TimeElapsedColumn
from rich.text import Text

from glip_export.errors import GlipExportError, GlipExportWarning, visible
from glip_export.processes import end_with_parent

_INTERRUPTED = 130
_PIPE_CLOSED = 1  # the exit code of a command whose reader has gone, as typer has it


class PlainConsole(Console):
    """A console on which a name cannot act: an escape sequence in it is shown, not obeyed."""

    def render_str(self, text: str, **how: Any) -> Text:
        """As rich does, of a text whose control characters are escapes; its line ends stay."""
        return super().render_str("\n".join(map(visible, text.split("\n"))), **how)


class Description(ProgressColumn):
    """What a bar is of, on which a name cannot act either."""

    def render(self, task: Task) -> Text:
        """The words as they stand."""
        return Text(visible(task.description))


def make_console(terminal: bool) -> Console:
    """A console that shows texts as they stand: no [markup], no :emoji: of a file's or a category's name is read.

    What is to be coloured is given as rich's Text, or with a style. terminal: whether it has a width of its own; 80
    columns would cut the tables' names in a file or a pipe.
    """
    return PlainConsole(highlight=False, markup=False, emoji=False, width=None if terminal else 130)


console = make_console(Console().is_terminal)


def steps_progress(transient: bool = False) -> Progress:
    """A line that tells what is being done, as it stands, and for how long."""
    turning = "dots" if console.encoding.startswith("utf") else "line"
    return Progress(SpinnerColumn(turning), Description(), TimeElapsedColumn(), console=console, transient=transient)


def run_app(app: Callable[[], object], name: str) -> None:
    """Runs an entry point: a mistake of the user's is one line and exit code 2, never a traceback.

    So is a file or a standard output that cannot be written, whatever wrote it, and a GlipExportWarning, once and
    without Python's file and line. A letter that the console's encoding lacks is shown by its number.
    """
    end_with_parent()  # where a process of ours started it
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not what a test or a notebook put in its place
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            with warnings.catch_warnings():
                _show_warnings(name)
                app()
        finally:
            sys.stdout.flush()  # here, where it can still be told, and not when Python ends
    except GlipExportError as error:
        _end(f"{name}: {error}", 2)
    except KeyboardInterrupt:
        _end(f"{name}: interrupted", _INTERRUPTED)
    except SystemExit as stopped:
        if stopped.code == _INTERRUPTED:  # typer's, which says nothing
            tell(f"{name}: interrupted")
        raise
    except BrokenPipeError:
        _end("", _PIPE_CLOSED)
    except OSError as error:
        where = error.filename
        if where is None and not _takes(sys.stdout, "\n"):
            where = "standard output"
        _end(f"{name}: {error.strerror or error}{'' if where is None else f': {where}'}", 2)


def _show_warnings(name: str) -> None:
    warnings.simplefilter("always", GlipExportWarning)
    others, shown = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, GlipExportWarning):
            others(message, category, *where, **more)
        elif str(message) not in shown:
            shown.add(str(message))
            tell(f"{name}: warning: {message}")

    warnings.showwarning = show


def tell(line: str) -> None:
    """Prints a line to the error output, whatever names are in it; where that cannot be written, nobody reads it."""
    with suppress(OSError):
        print(visible(line), file=sys.stderr, flush=True)


def megabytes(size: int) -> str:
    """Bytes as MB (10^6) with one decimal."""
    return f"{size / 1e6:.1f}"


def _end(line: str, code: int) -> None:
    if line:
        tell(line)
    if not _takes(sys.stdout):
        _drop(sys.stdout)
    sys.exit(code)


def _open_closed() -> None:
    """Has what was closed (>&-) lead nowhere, lest the first file that is opened become the standard output."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # each gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _takes(stream: TextIO, text: str = "") -> bool:
    """Writes what the stream holds, and the text; whether that could be written."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        return False
    return True


def _drop(stream: TextIO) -> None:
    """Lets Python's own flush at the end go nowhere: what is left cannot be written and has been told."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)

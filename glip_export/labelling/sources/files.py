"""Files that one text names: braces as in shells and WebDataset's lists, and wildcards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from glip_export.errors import GlipExportError, quoted
from glip_export.labelling.places import is_url, local_path, split_options, why
from glip_export.labelling.sources.walk import Found, is_left_out, list_folder, suffix_of, walk

_MOST = 10_000_000  # files of one text
_MAGIC = re.compile(r"[*?[]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)", re.ASCII)


@dataclass(frozen=True)
class Files:
    """Files of a source in their order. base: the folder, with a / at its end, from which they are called.

    found: also folders that could not be listed, with their problem, and files that are named and are not there.
    """

    base: str
    found: tuple[Found, ...]


def is_pattern(text: str) -> bool:
    """Whether it holds braces or wildcards, and is no file itself."""
    bare = split_options(text)[0] if is_url(text) else text
    return bool(_MAGIC.search(bare) or _BRACES.search(bare)) and (is_url(text) or not os.path.lexists(text))


def one_file(path: str) -> Files:
    """A file by itself, called by its name."""
    bare, _ = split_options(path) if is_url(path) else (path, "")
    folder, separator, name = bare.rpartition("/" if is_url(path) else os.sep)
    return Files(folder + separator, (Found(name, path),))


def expand(text: str, left_out: Path | None = None) -> Files:
    """part-{000..009}.tar, {a,b}/*.parquet, data/**/*.tar -> files, each once.

    As the braces say, and sorted where there is a wildcard, which passes over hidden files, the folder `left_out`, and
    those of labelling runs. Raises GlipExportError where none is found.
    """
    bare, options = split_options(text) if is_url(text) else (os.path.abspath(local_path(text) or text), "")
    bare = bare if is_url(text) else bare.replace(os.sep, "/")
    fixed = re.split(r"[*?\[{]", bare, maxsplit=1)[0]
    base = fixed[: fixed.rindex("/") + 1]
    paths: dict[str, Found] = {}
    try:
        for pattern in _braces(bare):
            for path, problem in _matching(pattern, options, left_out):
                paths.setdefault(path, Found(path.removeprefix(base), path + options, problem))
                if len(paths) > _MOST:
                    raise GlipExportError(f"{quoted(text)} names more than {_MOST} files")
    except OSError as error:
        raise GlipExportError(f"{quoted(text)} cannot be searched: {why(error)}") from error
    if not paths:
        raise GlipExportError(f"no file is like {quoted(text)}")
    return Files(base, tuple(paths.values()))


def _braces(text: str) -> Iterator[str]:
    """One text for each alternative; the first brace changes slowest, and {8..12} counts, with zeros as {08..12}."""
    match = _BRACES.search(text)
    if match is None:
        yield text
        return
    for choice in _choices(match[1]):
        yield from _braces(text[: match.start()] + choice + text[match.end() :])


def _choices(inside: str) -> Iterator[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        yield from inside.split(",")
        return
    first, last = int(numbers[1]), int(numbers[2])
    width = len(numbers[1]) if numbers[1].startswith("0") or len(numbers[1]) == len(numbers[2]) else 0
    step = 1 if first <= last else -1
    for number in range(first, last + step, step):
        yield f"{number:0{width}d}"


def _matching(pattern: str, options: str, left_out: Path | None) -> Iterator[tuple[str, str]]:
    """Path and problem of each file like the pattern, sorted; without a wildcard of the file that it names."""
    match = _MAGIC.search(pattern)
    if match is None:
        yield pattern, ""
        return
    fixed = pattern[: pattern.rindex("/", 0, match.start()) + 1]
    yield from _below(fixed, pattern[len(fixed) :].split("/"), options, left_out)


def _below(folder: str, parts: list[str], options: str, left_out: Path | None) -> Iterator[tuple[str, str]]:
    part, rest = parts[0], parts[1:]
    if part == "**":
        last = rest[-1] if rest else "*"
        for found in walk(folder + options, left_out):
            path = folder + found.relative
            if found.problem or (fnmatchcase(path.rpartition("/")[2], last) and _middle_fits(found.relative, rest)):
                yield path, found.problem
        return
    if not _MAGIC.search(part):
        if rest:
            yield from _below(f"{folder}{part}/", rest, options, left_out)
        elif any(name == part for name, _ in _names(folder, options)):
            yield folder + part, ""
        return
    for name, is_folder in _names(folder, options):
        if not fnmatchcase(name, part) or (name.startswith(".") and not part.startswith(".")):
            continue
        if rest and is_folder:
            if is_url(folder) or not is_left_out(folder + name, left_out):
                yield from _below(f"{folder}{name}/", rest, options, left_out)
        elif not rest and not is_folder:
            yield folder + name, ""


def _middle_fits(relative: str, rest: list[str]) -> bool:
    """Whether the folders before the file's name are like those between ** and the last part of the pattern."""
    middle, folders = rest[:-1], relative.split("/")[:-1]
    if "**" in middle:
        raise GlipExportError("** may stand once in a pattern")
    if len(folders) < len(middle):
        return False
    last = folders[len(folders) - len(middle) :]
    return all(fnmatchcase(name, part) for name, part in zip(last, middle, strict=True))


def _names(folder: str, options: str) -> list[tuple[str, bool]]:
    try:
        return list_folder((folder.rstrip("/") or "/") + options if not folder.endswith("://") else folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def suffix_of_pattern(text: str) -> str:
    """The suffix of the files that a pattern names, "" where its braces name several."""
    bare = split_options(text)[0] if is_url(text) else text
    suffixes = {suffix_of(choice) for choice, _ in zip(_braces(bare), range(1000), strict=False)}
    return suffixes.pop() if len(suffixes) == 1 else ""

"""A source labelled into an output folder: every picture once, whatever is killed and started again between."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glip_export.errors import GlipExportError
from glip_export.labelling.items import Answer, Block, BlockAnswer, Item
from glip_export.labelling.question import open_question
from glip_export.labelling.shards import Footer, digest, read_errors, read_footer, shard_file, shard_files, write_shard
from glip_export.labelling.sources import Source

if TYPE_CHECKING:
    import pyarrow

SHARD = 256  # pictures; a killed run loses at most those that its workers have, and the rest of their shards
BLOCK = 16  # pictures
RAY_BLOCK = 32  # Ray takes some milliseconds a block

# What answers blocks, somewhere: given what gives them, each block with its answers, in any order. Closed, it ends.
Answers = Callable[[Callable[[], Iterator[Block]]], Generator[tuple[Block, BlockAnswer], None, None]]


@dataclass(frozen=True)
class Plan:
    """How a source is cut: into shards that are written whole, and those into blocks that a worker takes at once.

    Can be pickled: on Ray the source is read by a process of its own.
    """

    source: Source
    folder: Path
    shard: int = SHARD
    block: int = BLOCK
    retry_errors: bool = False  # shards with an error are answered again as a whole
    before: Mapping[int, Footer] = field(default_factory=dict)  # shards that were there when the run started

    def blocks(self) -> Iterator[Block]:
        """The blocks of all shards that are not in the folder yet; then one without items, which says how many are.

        A shard is in the folder if it answers exactly the pictures that the source has at its place now. What the run
        itself writes changes nothing: called again, as Ray does, it gives the same blocks.
        """
        items = iter(self.source.items())
        first = 0
        while shard := tuple(islice(items, self.shard)):
            if not self._keeps(self.before.get(first // self.shard), shard):
                for start in range(0, len(shard), self.block):
                    yield Block(first + start, shard[start : start + self.block], len(shard))
            first += len(shard)
        yield Block(first, ())

    def started(self) -> Plan:
        """The plan of a run that starts now."""
        found = ((int(file.stem), read_footer(file)) for file in shard_files(self.folder))
        whole = {number: footer for number, footer in found if footer is not None}
        if self.retry_errors:
            whole = {number: footer for number, footer in whole.items() if not footer.errors}
        return replace(self, before=whole)

    def _keeps(self, footer: Footer | None, pictures: Sequence[Item]) -> bool:
        """Whether a shard that was there is the one of exactly these pictures."""
        return footer is not None and footer.sources == digest(pictures, self.source.carried)


@dataclass(frozen=True)
class Ran:
    """What a run did. pictures: of the whole source; answered: of those, in this run; hints: the workers' warnings."""

    pictures: int
    answered: int
    errors: int  # of those answered in this run
    hints: tuple[str, ...] = ()


def label(
    plan: Plan,
    question: Mapping[str, Any],
    answers: Answers,
    *,
    strict: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Ran:
    """Answers every picture of the source and keeps the answers in shards.

    question: what tells this run's answers from all others, as JSON; a folder of others is refused. strict: the first
    picture that cannot be answered is an error. progress: told the number of pictures that are done, first what was
    there. Raises GlipExportError where the folder cannot be written, holds other answers or is another run's now; for
    a source without pictures; and what reading the source and the answers raise.
    """
    with open_question(plan.folder, question):
        plan = plan.started()
        done = sum(footer.pictures for footer in plan.before.values())
        progress(done)
        shards = _Shards(plan)
        hints: dict[str, None] = {}
        pictures = None
        with closing(answers(plan.blocks)) as answered:  # whatever ends this, workers end with it
            for block, answer in answered:
                if not block.items:
                    pictures = block.first
                    continue
                if strict:
                    _refuse(each.error for each in answer.answers)
                shards.add(block, answer)
                hints |= dict.fromkeys(answer.hints)
                progress(done + shards.answered)
        shards.check(pictures)
        assert pictures is not None
        if strict:  # those of earlier runs, which were not
            _refuse(row.answer.error for row in read_errors(plan.folder))
        return Ran(pictures, shards.answered, shards.errors, tuple(hints))


def _refuse(errors: Iterable[str]) -> None:
    """Raises the first error, if there is one."""
    if error := next(filter(None, errors), ""):
        raise GlipExportError(f"{error}; without --strict it is a row of errors.jsonl")


@dataclass
class _Shard:
    """One that is not whole yet."""

    items: list[Item | None]
    answers: list[Answer | None]
    left: int


@dataclass
class _Shards:
    """Puts blocks together; a shard is written when its last picture is answered, and not held any longer."""

    plan: Plan
    carried: pyarrow.Schema | None = field(init=False)
    answered: int = 0
    errors: int = 0
    _open: dict[int, _Shard] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.carried = self.plan.source.carried

    def add(self, block: Block, answer: BlockAnswer) -> None:
        """A block's answers."""
        number, place = divmod(block.first, self.plan.shard)
        shard = self._open.get(number)
        if shard is None:
            shard = self._open[number] = _Shard([None] * block.in_shard, [None] * block.in_shard, block.in_shard)
        for item, one in zip(block.items, answer.answers, strict=True):
            if shard.answers[place] is None:
                shard.left -= 1
                self.answered += 1
                self.errors += bool(one.error)
            shard.items[place], shard.answers[place] = item, one
            place += 1
        if not shard.left:
            self._write(number)

    def check(self, pictures: int | None) -> None:
        """At the end: that nothing is missing; shards beyond the source's end, of when it was longer, are removed."""
        if pictures == 0:
            raise GlipExportError("the source holds no picture any more")
        files = shard_files(self.plan.folder)
        needed = 0 if pictures is None else -(-pictures // self.plan.shard)
        numbers = {int(file.stem) for file in files}
        if pictures is None or self._open or not numbers.issuperset(range(needed)):
            raise GlipExportError("some pictures got no answer: start the same command again, it goes on")
        for file in files:
            if int(file.stem) >= needed:
                file.unlink()

    def _write(self, number: int) -> None:
        shard = self._open.pop(number)
        items = [item for item in shard.items if item is not None]
        answers = [answer for answer in shard.answers if answer is not None]
        write_shard(shard_file(self.plan.folder, number), items, answers, self.carried)

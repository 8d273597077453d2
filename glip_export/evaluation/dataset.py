"""A data set in COCO's format: its annotation file, checked, and its pictures' folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from glip_export.config import TaskCategory
from glip_export.errors import GlipExportError
from glip_export.evaluation.categories import asked_categories
from glip_export.evaluation.entries import (
    CocoCategory,
    CocoImage,
    CocoObject,
    ImageId,
    parse_category,
    parse_image,
    parse_object,
    rising,
)
from glip_export.evaluation.problems import TWICE, BrokenEntryError, Problem, short

NOT_ASKED = -1  # the place of what the file has, but that is not evaluated
T = TypeVar("T", bound=CocoCategory | CocoImage)
LISTS = ("images", "annotations", "categories")


class Places(NamedTuple):
    """Where ids stand in a data set's order; NOT_ASKED: its detections are left out, which is no problem."""

    items: Mapping[ImageId, int]
    labels: Mapping[int, int]


@dataclass(frozen=True)
class CocoDataset:
    """Pictures by rising id, categories in the file's order, and the objects on those pictures; no broken entries.

    Categories that a task puts in the place of the file's are in the task's order; those that nothing is an example of
    are left out, see `asked_categories`. In the original, too, labels follow the list of categories, whatever its ids.
    """

    path: Path  # the annotation file
    sha256: str  # of its bytes
    folder: Path  # of the pictures
    images: tuple[CocoImage, ...]
    categories: tuple[CocoCategory, ...]
    objects: tuple[CocoObject, ...]
    problems: tuple[Problem, ...]  # of the whole file, whatever the limit
    notes: tuple[str, ...] = ()  # what is done otherwise than the file says, though nothing in it is broken
    unasked_images: frozenset[ImageId] = frozenset()  # ids of the file's that are not evaluated
    unasked_categories: frozenset[int] = frozenset()
    uncounted: ClassVar[str] = "of crowds"  # what objects are that do not count, see `counts`

    @classmethod
    def read(
        cls,
        annotations: Path | str,
        images: Path | str | None,
        limit: int | None = None,
        categories: Sequence[TaskCategory] = (),
    ) -> Self:
        """Reads an annotation file; images: the folder that its file names are in; limit: the first so many pictures.

        images may be None where no picture is opened: the annotation file's folder stands for it.
        categories: in place of the file's own, in this order (GLIP: DATASETS.OVERRIDE_CATEGORY); annotations of others
        are left out as of an unknown category.

        What is broken (an entry without its keys, an unknown picture or category, a degenerate box, an id used twice,
        a path out of the folder) is in `problems` and left out. Raises GlipExportError for a file that is no COCO
        annotation file or names nothing to evaluate, and for a folder that is none.
        """
        path = Path(annotations)
        folder = path.parent if images is None else Path(images)
        if not folder.is_dir():
            raise GlipExportError(f"the pictures' folder {folder} does not exist or is no folder")
        data, content = read_json(path)
        problems: list[Problem] = []
        listed = [asdict(each) for each in categories] or content["categories"]
        parsed, _ = _parse_list("category", listed, cls.parse_category, problems)
        parse = partial(cls.parse_image, folder=folder)
        pictures, mentioned = _parse_list("picture", content["images"], parse, problems)
        for found, what in ((parsed, "category"), (pictures, "picture")):
            if not found:
                reason = next((f": {each.text}" for each in problems if each.kind.startswith(what)), "")
                raise GlipExportError(f"{path} has no {what} to evaluate{reason}")
        objects = _parse_objects(content["annotations"], mentioned, {each.id for each in parsed}, problems)
        kept, notes = cls.select(parsed, {item.category_id for item in objects})
        asked = {each.id for each in kept}
        pictures = sorted(pictures, key=lambda image: rising(image.id))[:limit]
        chosen = {image.id for image in pictures}
        return cls(
            path=path,
            sha256=hashlib.sha256(data).hexdigest(),
            folder=folder,
            images=tuple(pictures),
            categories=tuple(kept if categories else cls.in_label_order(kept)),
            objects=tuple(item for item in objects if item.image_id in chosen and item.category_id in asked),
            problems=tuple(problems),
            notes=notes,
            unasked_images=frozenset(mentioned - chosen),
            unasked_categories=frozenset(each.id for each in parsed if each.id not in asked),
        )

    @classmethod
    def parse_image(cls, entry: object, folder: Path) -> CocoImage:
        """An entry of "images". Raises BrokenEntryError."""
        return parse_image(entry, folder)

    @classmethod
    def parse_category(cls, entry: object) -> CocoCategory:
        """An entry of "categories". Raises BrokenEntryError."""
        return parse_category(entry)

    @classmethod
    def in_label_order(cls, categories: Sequence[CocoCategory]) -> Sequence[CocoCategory]:
        """The file's categories, given in its order, as labels count them: in that order."""
        return categories

    @classmethod
    def select(
        cls, categories: Sequence[CocoCategory], annotated: set[int]
    ) -> tuple[Sequence[CocoCategory], tuple[str, ...]]:
        """The categories that are evaluated, and notes on the others; annotated: the ids that annotations have."""
        return asked_categories(categories, annotated)

    @property
    def asked(self) -> tuple[CocoCategory, ...]:
        """The categories that a prompt names, in their order."""
        return self.categories

    @property
    def names(self) -> tuple[str, ...]:
        """The categories' names, in the categories' order: label i is the i-th."""
        return tuple(category.name for category in self.categories)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The categories' ids, in the categories' order."""
        return tuple(category.id for category in self.categories)

    @property
    def places(self) -> Places:
        """Of the pictures and categories in their orders, by id."""
        items: dict[ImageId, int] = {image.id: place for place, image in enumerate(self.images)}
        labels = {category_id: place for place, category_id in enumerate(self.category_ids)}
        return Places(
            {**items, **dict.fromkeys(self.unasked_images, NOT_ASKED)},
            {**labels, **dict.fromkeys(self.unasked_categories, NOT_ASKED)},
        )

    def without(self, ids: Collection[ImageId]) -> Self:
        """Without those pictures: neither their objects nor what is found on them count. Raises GlipExportError."""
        gone = frozenset(image.id for image in self.images if image.id in ids)
        if len(gone) == len(self.images):
            raise GlipExportError(f"{self.path}: not one of the {len(gone)} picture(s) is left to be scored")
        return replace(
            self,
            images=tuple(image for image in self.images if image.id not in gone),
            objects=tuple(item for item in self.objects if item.image_id not in gone),
            unasked_images=self.unasked_images | gone,
        )

    def counts(self, item: CocoObject) -> bool:
        """Whether an object is to be found: to miss one that is not, is no mistake."""
        return not item.crowd

    def check_annotated(self) -> None:
        """Raises GlipExportError where not one annotation counts: whatever is found, there is no average precision."""
        if any(map(self.counts, self.objects)):
            return
        left_out = [problem for problem in self.problems if problem.kind.startswith("annotation")]
        reason = f"; {len(left_out)} left out, {left_out[0].text}" if left_out else ""
        if self.objects:
            reason = f"; all are {self.uncounted}{reason}"
        raise GlipExportError(
            f"{self.path} has no annotation that counts on its {len(self.images)} picture(s), so there is nothing to "
            f"measure{reason}"
        )

    def pictures_digest(self) -> str:
        """See `pictures_digest`."""
        return pictures_digest(self.images)


def pictures_digest(images: Sequence[CocoImage]) -> str:
    """SHA-256 over name, size and time of every picture's file: what tells that one was changed."""
    digest = hashlib.sha256()
    for image in images:
        try:
            status = image.path.stat()
            facts = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):  # ValueError: a name that no file can have
            facts = "missing"
        digest.update(f"{image.file_name}\0{facts}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def read_json(path: Path, lists: Sequence[str] = LISTS) -> tuple[bytes, dict[str, list[Any]]]:
    """The bytes of an annotation file and what they hold, with those lists. Raises GlipExportError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GlipExportError(f"cannot read the annotations {path}: {error.strerror or error}") from error
    what = f"{path} is no COCO annotation file"
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise GlipExportError(f"{what}: it is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise GlipExportError(f"{what}: it holds no object with the lists {', '.join(lists)}")
    for name in lists:
        if not isinstance(content.get(name), list):
            raise GlipExportError(f'{what}: it has no list "{name}"')
    return data, content


def _parse_list(
    what: str, entries: Sequence[object], parse: Callable[[object], T], problems: list[Problem]
) -> tuple[list[T], set[ImageId]]:
    """The usable entries of a list, and the ids that any of its entries names."""
    found: dict[ImageId, T] = {}
    mentioned: set[ImageId] = set()
    for index, entry in enumerate(entries):
        if isinstance(entry, dict) and isinstance(entry.get("id"), (int, str)):
            mentioned.add(entry["id"])
        try:
            item = parse(entry)
            if item.id in found:
                raise BrokenEntryError(TWICE, f"id {short(item.id)} is an earlier one's")
        except BrokenEntryError as error:
            problems.append(Problem(f"{what}: {error.kind}", f"{what} entry {index + 1}: {error}"))
        else:
            found[item.id] = item
    return list(found.values()), mentioned


def _parse_objects(
    entries: Sequence[object], images: set[ImageId], categories: set[int], problems: list[Problem]
) -> list[CocoObject]:
    """The usable annotations; those of a picture whose entry is broken go with it and are no problem of their own."""
    found: dict[ImageId, CocoObject] = {}
    for index, entry in enumerate(entries):
        try:
            own, item = parse_object(entry)
            if item.image_id not in images:
                raise BrokenEntryError("unknown picture", f"image_id {short(item.image_id)} is no picture's")
            if item.category_id not in categories:
                raise BrokenEntryError("unknown category", f"category_id {item.category_id} is no category's")
            if own in found:
                raise BrokenEntryError(TWICE, f"id {short(own)} is an earlier one's")
        except BrokenEntryError as error:
            problems.append(Problem(f"annotation: {error.kind}", f"annotation entry {index + 1}: {error}"))
        else:
            found[own] = item
    return list(found.values())

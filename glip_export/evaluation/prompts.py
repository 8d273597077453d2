"""What a data set is asked for: its categories, by their names or as the bundle's configuration words them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from glip_export.config import CaptionWords, GlipConfig
from glip_export.errors import GlipExportError
from glip_export.evaluation.dataset import CocoDataset
from glip_export.names import Name
from glip_export.prompt import Prompt


def prompt_for(
    dataset: CocoDataset, names: Sequence[Name] | None, config: GlipConfig, chunk: int | None = None
) -> Prompt:
    """The prompt that asks for the categories, in their order; its names are theirs, or those given.

    names: asked for as they are, in place of the configuration's CAPTION_PROMPT. chunk: names a caption, the
    configuration's by default: it matters for `words_of`. Raises GlipExportError if there are not as many names or
    words as categories, or if the data set was read without the categories that the configuration demands.
    """
    _check_categories(dataset, config)
    wanted = len(dataset.asked)
    if names is not None and len(names) != wanted:
        raise GlipExportError(f"{len(names)} names are given, but {dataset.path} has {wanted} categories")
    asked = Prompt.of([each.name for each in dataset.asked] if names is None else list(names))
    if names is None and config.task.words:
        words = words_of(config, chunk)
        if len(words) != wanted:
            raise GlipExportError(
                f"the bundle's DATASETS.CAPTION_PROMPT has words for {len(words)} categories, but {dataset.path} has "
                f"{wanted}; give --names, or a bundle without them"
            )
        parts = [(each.prefix, each.name, each.suffix) for each in words]
        return Prompt.from_words(parts, asked.names, config.task.unscored)
    return replace(asked, unscored=config.task.unscored)


def words_of(config: GlipConfig, chunk: int | None) -> tuple[CaptionWords, ...]:
    """The words of each category as the original asks for them, n names a caption: every caption begins with the first.

    A fault of the original's, kept since its numbers are what an evaluation is for; see `prompt_notes`.
    """
    words, size = config.task.words, names_a_caption(config, chunk)
    return in_turn(words, size, len(words)) if size > 0 else words


def in_turn(words: Sequence[CaptionWords], every: int, count: int) -> tuple[CaptionWords, ...]:
    """So many of the words, the first ones again after each `every`."""
    return tuple(words[place % every] for place in range(count))


def prompt_notes(names: Sequence[Name] | None, config: GlipConfig, chunk: int | None) -> tuple[str, ...]:
    """What a user should know of the words that categories are asked for by."""
    words, size = config.task.words, names_a_caption(config, chunk)
    if names is not None or not 0 < size < len(words):
        return ()
    return (
        f"asked as the original does with DATASETS.CAPTION_PROMPT in chunks of {size}: category {size + 1} with the "
        f"words of category 1 ({words[0].name!r}), and so on",
    )


def _check_categories(dataset: CocoDataset, config: GlipConfig) -> None:
    demanded = {(each.id, each.name) for each in config.task.categories}
    if demanded and not {(each.id, each.name) for each in dataset.categories} <= demanded:
        raise GlipExportError(
            f"the bundle's DATASETS.OVERRIDE_CATEGORY replaces the categories of {dataset.path}: read it with "
            f"CocoDataset.read(..., categories=config.task.categories)"
        )


def names_a_caption(config: GlipConfig, chunk: int | None) -> int:
    """As asked for, else the configuration's; less than 1 for as many as fit."""
    return config.detection.chunk if chunk is None else chunk

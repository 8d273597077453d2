"""Which of a file's categories are asked for."""

from __future__ import annotations

from collections.abc import Sequence

from glip_export.evaluation.entries import CocoCategory
from glip_export.evaluation.problems import short

BACKGROUND = "__background__"
MOST_NAMED = 5


def asked_categories(
    categories: Sequence[CocoCategory], annotated: set[int]
) -> tuple[list[CocoCategory], tuple[str, ...]]:
    """The categories to ask for, and notes on those that are not.

    annotated: the ids that annotations have. Left out are `__background__`, as in the original, and where no annotation
    has them: what other categories name as their super-class, and the id 0, which the original leaves out of the
    caption and exports (Roboflow's) give to such a super-class. A category that merely has no object is asked for.
    """
    above = {each.supercategory for each in categories if each.supercategory != each.name}
    none = [each for each in categories if each.name == BACKGROUND]
    none += [each for each in categories if each not in none and _is_super_class(each, above, annotated)]
    kept = [each for each in categories if each not in none]
    if not none or not kept:
        return list(categories), ()
    named = ", ".join(f"{short(each.name)} (id {each.id})" for each in none[:MOST_NAMED])
    more = f" and {len(none) - MOST_NAMED} more" if len(none) > MOST_NAMED else ""
    return kept, (f"not asked for, as background or a super-class that no object has: {named}{more}",)


def _is_super_class(category: CocoCategory, above: set[str], annotated: set[int]) -> bool:
    return category.id not in annotated and (category.name in above or (category.id == 0 and bool(annotated)))

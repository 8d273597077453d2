"""The tables of docs/configuration.md, written anew from the package's own: python docs/make_configuration.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from glip_export.config.keys import HONOURED, WITHOUT_INFLUENCE, refused
from glip_export.config.supported import RULES
from glip_export.config.yacs import official_keys, show

PAGE = Path(__file__).with_name("configuration.md")
BEGIN = "<!-- from here on written by make_configuration.py -->\n"


def main() -> None:
    """Replaces what stands behind BEGIN."""
    head = PAGE.read_text(encoding="utf-8").partition(BEGIN)[0]
    PAGE.write_text(head + BEGIN + tables(), encoding="utf-8")


def tables() -> str:
    """Honoured, refused and without influence, a table each."""
    return "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    keys = official_keys()
    yield from ("", "## Honoured", "", "| key | official default | becomes |", "|---|---|---|")
    for key, field in HONOURED.items():
        yield f"| `{key}` | {_code(keys[key].default)} | `{field}` |"
    yield from ("", "## Refused, unless it is what is rebuilt", "", "| key | rebuilt | why |", "|---|---|---|")
    rules = {rule.key: rule for rule in RULES}
    for key, why in refused().items():
        rule = rules.get(key)
        rebuilt = " or ".join(_code(value) for value in rule.accepted) if rule else "what the others demand"
        only = f", with `{rule.only_if}`" if rule and rule.only_if else ""
        yield f"| `{key}` | {rebuilt}{only} | {why} |"
    yield from ("", "## Without influence on inference", "", "| why | keys |", "|---|---|")
    for group in WITHOUT_INFLUENCE:
        yield f"| {group.why} | {', '.join(f'`{key}`' for key in group.keys)} |"


def _code(value: object) -> str:
    return f"`{show(value) if value != '' else repr(value)}`"


if __name__ == "__main__":
    main()

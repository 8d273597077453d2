"""The errors that a person can mend, each one line that says what is wrong, where, and what to do."""

import reprlib
import unicodedata
from itertools import islice
from typing import Any


class GlipExportError(Exception):
    """Wrong input or usage; the command line prints it on one line and exits with 2."""


class ConfigError(GlipExportError):
    """A configuration file, an override or a BERT configuration that cannot be used."""


class CheckpointError(GlipExportError):
    """A weights file that cannot be read safely or does not fit the configuration."""


class BundleError(GlipExportError):
    """A bundle that is missing, damaged, of a newer format, or that points outside its folder."""


class PromptError(GlipExportError):
    """A prompt without names, or one the model's tokenizer cannot hold."""


class ImageError(GlipExportError):
    """A picture that cannot be read, is too large, or is too small to detect in."""


class BackendError(GlipExportError):
    """A runtime backend that is unknown, not installed, or has no device."""


class ServerError(GlipExportError):
    """What a server answers in place of detections, or that it does not answer."""

    def __init__(self, message: str, code: str, status: int | None = None, retry_after: float | None = None) -> None:
        """code: the server's own (bad_image, busy, deadline, ...), unreachable or unknown. retry_after: seconds."""
        super().__init__(message)
        self.code = code
        self.status = status
        self.retry_after = retry_after


class GlipExportWarning(UserWarning):
    """What is done as asked, and perhaps not as meant; the command line prints it on one line."""


def visible(text: str) -> str:
    """On one line, and with nothing that a terminal obeys: line ends and control characters as escapes (\\x1b)."""
    if text.isprintable():
        return text
    return "".join(ascii(character)[1:-1] if _is_control(character) else character for character in text)


def brief(value: object) -> str:
    """repr(), but only the beginning of what is large: of YAML's aliases two kilobytes may be a billion lists."""
    return _brief.repr(value)


class _Brief(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 12
        self.maxstring = self.maxlong = self.maxother = 400  # characters

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """In its own order; reprlib sorts the keys."""
        if level <= 0 and x:
            return "{...}"
        pairs = [f"{self.repr1(k, level - 1)}: {self.repr1(v, level - 1)}" for k, v in islice(x.items(), self.maxdict)]
        return "{" + ", ".join([*pairs, *(["..."] if len(x) > self.maxdict else [])]) + "}"


_brief = _Brief()


def quoted(value: object) -> str:
    """On one line and short, whatever it is: for what a person gave."""
    try:
        text = brief(value[:80] if isinstance(value, str) else value)
    except RecursionError:  # lists in lists in lists
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _is_control(character: str) -> bool:
    # Cc, Zl, Zp: control characters and line ends; the others turn the direction of what follows, as in "gpj.exe".
    return unicodedata.category(character) in ("Cc", "Zl", "Zp") or character in _DIRECTIONS


_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

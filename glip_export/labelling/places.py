"""Where files are: on this file system, or in an object store that pyarrow reads; both by one string."""

from __future__ import annotations

import os
import posixpath
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes

from glip_export.errors import GlipExportError, quoted
from glip_export.labelling.kept import Kept

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")

_CONNECT_SECONDS, _REQUEST_SECONDS, _TRIES = 10, 60, 4
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://", re.ASCII)  # two letters or more: C:/ is a Windows drive

# What may follow a URL's path. A key may hold ? and %: it is taken as it is, unlike a web address.
_OPTION = "(?:anonymous|region|scheme|endpoint_override|force_virtual_addressing|tls_ca_file_path)=[^&?]*"
_OPTIONS = re.compile(rf"\?({_OPTION}(?:&{_OPTION})*)\Z")

# What pyarrow adds to an error: a number of the request, the system's words for what it has said.
_NOISE = re.compile(r"\s*\(Request ID: [^)]*\)|\.? Detail: \[errno \d+\] .*$")

_filesystems: Kept[FileSystem] = Kept(8)


def is_url(path: str) -> bool:
    """Whether it is of an object store and not of this file system."""
    match = _URL.match(path)
    return match is not None and match[1].lower() != "file"


def local_path(path: str) -> Path | None:
    """The file on this file system, of a path or file:// URL; None for one elsewhere.

    Raises GlipExportError for a file:// URL of another host.
    """
    match = _URL.match(path)
    if match is None:
        return Path(path)
    if match[1].lower() != "file":
        return None
    host, slash, rest = path[match.end() :].partition("/")
    if host.lower() not in ("", "localhost"):
        raise GlipExportError(f"{quoted(path)} is of the host {quoted(host)}: file:///path is a file here")
    rest = slash + os.fsdecode(unquote_to_bytes(rest))
    return Path(rest.lstrip("/") if os.name == "nt" else rest)


def as_text(path: str) -> str:
    """An absolute path, as itself if it is UTF-8, else as a file:// URL: Parquet and JSON hold no other strings."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file:///" + quote(os.fsencode(path)).lstrip("/")
    return path


def beside(folder: str, path: str) -> str:
    """A path that a file names, from the folder that the file is in: absolute, or a URL."""
    if _URL.match(path):
        return path
    if is_url(folder):
        base, options = split_options(folder)
        scheme, _, rest = base.partition("://")
        bucket, _, key = rest.partition("/")
        return f"{scheme}://{bucket}{posixpath.normpath(f'/{key}/{path}').replace('//', '/')}{options}"
    return as_text(path if os.path.isabs(path) else os.path.join(folder, path))


def parent_of(path: str) -> str:
    """The folder that a file is in: absolute, or a URL."""
    if not is_url(path):
        return os.path.dirname(os.path.abspath(local_path(path) or path))
    base, options = split_options(path)
    return base.rpartition("/")[0] + options


def split_options(url: str) -> tuple[str, str]:
    """s3://bucket/key?region=eu-west-1 -> the URL without its options, and ?region=eu-west-1."""
    match = _OPTIONS.search(url)
    return (url, "") if match is None else (url[: match.start()], match[0])


def open_filesystem(url: str) -> tuple[FileSystem, str]:
    """pyarrow's file system for a URL, kept for the next call, and the path in it. Thread-safe.

    Requests end after a minute. Raises GlipExportError for an unknown scheme, for a key in the URL, which would be
    written into every output, and without pyarrow.
    """
    base, options = split_options(url)
    scheme, _, rest = base.partition("://")
    authority, _, inner = rest.partition("/")
    if scheme.lower() not in SCHEMES:
        known = ", ".join(f"{known}://" for known in SCHEMES)
        raise GlipExportError(f"{quoted(url)} cannot be read: addresses start with {known} or file://")
    if ":" in authority.partition("@")[0] and "@" in authority:
        raise GlipExportError(
            f"{scheme}:// with a key in it would be written into every output: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or what else the store's own tools read"
        )
    if not authority and scheme.lower() not in ("hdfs", "viewfs"):
        raise GlipExportError(f"{quoted(url)} names no bucket: s3://bucket/folder")
    key = f"{scheme.lower()}://{authority}{options}"
    filesystem = _filesystems.get(key, lambda: _made(scheme.lower(), authority, options.removeprefix("?")))
    bucket = authority if scheme.lower() in ("s3", "gs", "gcs") else authority.partition("@")[0]
    return filesystem, f"/{inner}" if scheme.lower() in ("hdfs", "viewfs") else f"{bucket}/{inner}"


def check_pyarrow() -> None:
    """Raises GlipExportError where it is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise GlipExportError("this needs pyarrow: pip install 'glip-export[label]'") from None


def why(error: BaseException) -> str:
    """The error's own words on one line, without a stack or an address in memory."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = _NOISE.sub("", " ".join(str(words).split()))
    return line if len(line) <= 300 else line[:297] + "..."


def _made(scheme: str, authority: str, query: str) -> FileSystem:
    check_pyarrow()
    from pyarrow import ArrowException, fs

    options: dict[str, Any] = dict(part.split("=", 1) for part in query.split("&") if part)
    anonymous = options.pop("anonymous", "").lower() in ("1", "true", "yes")
    try:
        if scheme == "s3":
            return _s3(authority, options, anonymous)
        if scheme in ("gs", "gcs"):
            options.pop("region", None)
            limit = timedelta(seconds=_REQUEST_SECONDS)
            return fs.GcsFileSystem(anonymous=anonymous, retry_time_limit=limit, **options)
        return fs.FileSystem.from_uri(f"{scheme}://{authority}/" + (f"?{query}" if query else ""))[0]
    except (OSError, ArrowException, ImportError, TypeError, ValueError) as error:
        raise GlipExportError(f"{scheme}://{authority} cannot be opened: {why(error)}") from error


def _s3(bucket: str, options: dict[str, Any], anonymous: bool) -> FileSystem:
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")  # as Amazon's tools
    if endpoint:
        options.setdefault("endpoint_override", endpoint)
    if "region" not in options and "endpoint_override" not in options:
        try:
            options["region"] = fs.resolve_s3_region(bucket)
        except OSError as error:
            raise GlipExportError(f"the bucket {quoted(bucket)} cannot be found: {why(error)}") from error
    virtual = options.pop("force_virtual_addressing", "").lower() in ("1", "true", "yes")
    return fs.S3FileSystem(
        anonymous=anonymous,
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
        force_virtual_addressing=virtual,
        **options,
    )

"""Addresses of an object store, and what to say when it cannot be used."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dermatome.errors import BadSetting, StorageFailed

if TYPE_CHECKING:
    from upath import UPath

# Without listings kept in memory, which another process's writes would make wrong.
_OPTIONS: dict[str, Any] = {"use_listings_cache": False, "default_fill_cache": False}


def path_of(place: str) -> UPath:
    """The path that an address ``s3://bucket/prefix`` names; nothing is asked of the store.

    Raises:
        BadSetting: it is no such address, or s3fs is not installed.
    """
    kind, _, rest = place.partition("://")
    bucket = rest.strip("/").split("/")[0]
    if kind != "s3" or not bucket:
        raise BadSetting(f"{place!r} is no place for data: give a folder, or s3://bucket/prefix.")
    if any(part in (".", "..", "") for part in rest.rstrip("/").split("/")):
        raise BadSetting(f"{place!r} has an empty part or one of dots: give s3://bucket/prefix.")
    if importlib.util.find_spec("s3fs") is None:
        raise BadSetting(f"{place} needs s3fs, which is not installed: pip install 'dermatome[s3]'.")
    from upath import UPath

    found: UPath = UPath(place.rstrip("/"), **_OPTIONS)
    return found


@contextmanager
def told(what: str, path: UPath) -> Iterator[None]:
    """Turns what the store or the way to it says into a sentence; that an object is not there stays what it is.

    Raises:
        StorageFailed: the store refuses, or cannot be reached.
        FileNotFoundError: there is no such object to read or list.
    """
    import aiohttp
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (OSError, BotoCoreError, ClientError, aiohttp.ClientError) as error:
        if isinstance(error, FileNotFoundError) and what in ("read", "list"):
            raise
        raise StorageFailed(
            f"Could not {what} {path} ({error}): check the bucket's name and rights, the AWS credentials, "
            "AWS_ENDPOINT_URL and the network, and run this again."
        ) from error

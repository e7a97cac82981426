"""Owns the errors of file stores. The library of each object store raises its own types of errors; here they
become one clear error of one line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from lookalike.model.errors import InvalidRequest, LookalikeError

_NO_CREDENTIALS = re.compile("credential|anonymous caller|not authenticated", re.IGNORECASE)
_CREDENTIALS = "set the store's credentials where its library looks for them, for S3 in AWS_ACCESS_KEY_ID and"
_CREDENTIALS += " AWS_SECRET_ACCESS_KEY or in ~/.aws"


def reason_of(error: Exception) -> str:
    """The first line of an error, with the remedy if credentials are missing."""
    text = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"{text}; {_CREDENTIALS}" if _NO_CREDENTIALS.search(text) else text


@contextlib.contextmanager
def explained(field: str, url: str, done: str = "used") -> Iterator[None]:
    """Turns the errors of a store's library within the block into InvalidRequest, which names the field and the
    URL. Errors of this project and FileNotFoundError stay as they are."""
    try:
        yield
    except (LookalikeError, FileNotFoundError):
        raise
    except Exception as error:
        raise InvalidRequest(f"{field}: {url} cannot be {done}: {reason_of(error)}") from None

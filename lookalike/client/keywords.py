"""Owns the signature of methods that take search options as keyword arguments: `help()`, editors and docs/api show
each option with its default, although the method declares only a typed `**keywords`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from lookalike.model.search_options import SearchOptions

Method = TypeVar("Method", bound=Callable[..., Any])


def shows_search_options(method: Method) -> Method:
    """Returns the method with `**keywords` in its signature replaced by the fields of SearchOptions."""
    signature = inspect.signature(method)
    options = [one.replace(kind=one.KEYWORD_ONLY) for one in inspect.signature(SearchOptions).parameters.values()]
    named = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    method.__signature__ = signature.replace(parameters=[*named, *options])  # type: ignore[attr-defined]
    return method

"""Filters for searches, over the keys and attributes of records: docs/FILTERS.md defines what each means. The JSON
form is that of `lookalike.model.filter_language`, the classes are those of `lookalike.model.filters`."""

from lookalike.model.filter_language import parse
from lookalike.model.filters import And, Equals, Exists, Filter, In, Not, Or, Prefix, Range, Scalar

__all__ = ["And", "Equals", "Exists", "Filter", "In", "Not", "Or", "Prefix", "Range", "Scalar", "parse"]

"""Owns how the SDK turns arrays and tables into columns of records, and what became of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.cluster.columns import CodeColumns, Texts
from lookalike.model.errors import InvalidRequest, LookalikeError
from lookalike.model.records import (
    MAX_COLUMN_RECORDS,
    Outcome,
    attributes_text,
    check_json,
    check_key,
    encode_attributes,
)

# Arrays, or objects of Arrow and pandas, which the SDK does not import.
Keys = Any
Codes = Any
Attributes = Any

_MESSAGE_BYTES = 8 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of records that were sent as arrays.

    Attributes:
        stored: How many are stored.
        errors: By index of each record that is not stored, why.
    """

    stored: int
    errors: Mapping[int, LookalikeError | Exception]

    @classmethod
    def of(cls, count: int, failed: Mapping[int, Outcome]) -> IngestReport:
        """Returns the report on `count` records, with the outcomes of those that are not stored."""
        errors = {row: outcome.error for row, outcome in failed.items() if outcome.error is not None}
        return cls(count - len(errors), errors)


def join(reports: Sequence[IngestReport]) -> IngestReport:
    """Returns one report on consecutive arrays."""
    firsts = itertools.accumulate((report.stored + len(report.errors) for report in reports), initial=0)
    errors = {
        first + row: error
        for first, report in zip(firsts, reports, strict=False)
        for row, error in report.errors.items()
    }
    return IngestReport(sum(report.stored for report in reports), errors)


def code_columns(keys: Keys, codes: Codes, attributes: Attributes = None) -> CodeColumns:
    """Returns the columns of `ingest_arrays`. Raises InvalidRequest."""
    names = texts_of_keys(keys)
    packed = packed_codes(codes)
    if len(packed) != len(names):
        raise InvalidRequest(f"codes: are {len(packed):,} for {len(names):,} keys; give one for each key")
    texts = texts_of_attributes(attributes, len(names))
    if len(texts) != len(names):
        raise InvalidRequest(f"attributes: are {len(texts):,} for {len(names):,} keys; give them for each key")
    return CodeColumns(names, packed, texts)


def split(columns: CodeColumns) -> Iterator[CodeColumns]:
    """Splits columns into parts that fit into a message each."""
    sizes = columns.keys.sizes + columns.attributes.sizes + columns.codes.shape[1]
    ends = np.cumsum(sizes)
    start = 0
    while start < len(columns):
        before = int(ends[start - 1]) if start else 0
        fitting = int(np.searchsorted(ends, before + _MESSAGE_BYTES, side="right"))
        end = max(start + 1, min(fitting, start + MAX_COLUMN_RECORDS))
        yield columns if (start, end) == (0, len(columns)) else columns.take(np.arange(start, end))
        start = end


def texts_of_keys(keys: Keys) -> Texts:
    """Returns keys as a column. Raises InvalidRequest."""
    if _is_arrow(keys):
        return texts_of_arrow("keys", keys)
    if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
        raise InvalidRequest(f"keys: is one {type(keys).__name__}; give a list of strings or an array")
    values = keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
    return Texts.of([check_key(key) for key in values])


def packed_codes(codes: Codes) -> npt.NDArray[np.uint8]:
    """Returns codes as uint8 (n, bytes of a code). Raises InvalidRequest."""
    if _is_arrow(codes):
        codes = codes.to_pylist()
    if isinstance(codes, np.ndarray):
        if codes.dtype != np.uint8 or codes.ndim != 2:
            raise InvalidRequest(
                f"codes: are {codes.dtype} of shape {codes.shape}; give uint8 of shape (n, bits / 8)"
            )
        return codes
    for row, code in enumerate(codes):
        if not isinstance(code, bytes) or len(code) != len(codes[0]):
            shown = f"{len(code)} bytes" if isinstance(code, bytes) else type(code).__name__
            raise InvalidRequest(f"codes: number {row:,} is {shown}; give bytes, all of one length")
    width = len(codes[0]) if len(codes) else 0
    return np.frombuffer(b"".join(codes), np.uint8).reshape(len(codes), width)


def texts_of_attributes(attributes: Attributes, count: int) -> Texts:
    """Returns attributes as a column of JSON objects. Raises InvalidRequest.

    Args:
        attributes: See `ingest_arrays`.
        count: The number of records.
    """
    if attributes is None:
        return Texts(b"", np.zeros(count, np.int64))
    if _is_arrow(attributes):
        names = attributes.column_names
        attributes = {name: _values_of_arrow(attributes.column(name)) for name in names}
    elif hasattr(attributes, "to_dict") and hasattr(attributes, "columns"):  # pandas
        rows = attributes.astype(object).where(attributes.notna(), None)
        attributes = {name: rows[name].tolist() for name in rows.columns}
    if not isinstance(attributes, Mapping):
        return Texts.of([attributes_text(row) for row in attributes])
    parts = [_members(name, values, count) for name, values in attributes.items()]
    if not parts:
        return Texts(b"", np.zeros(count, np.int64))
    return Texts.of(["{" + ",".join(filter(None, row)) + "}" for row in zip(*parts, strict=True)])


def _members(name: object, values: Sequence[Any], count: int) -> list[str]:
    """The member that a column adds to each JSON object; empty for a null value."""
    if not isinstance(name, str):
        raise InvalidRequest(f"attributes: a column's name is {type(name).__name__}; JSON's names are text")
    if isinstance(values, np.ndarray):
        values = _values_of_numpy(values)
    if len(values) != count:
        raise InvalidRequest(f"attributes: column {name!r} has {len(values):,} values for {count:,} keys")
    prefix = encode_attributes(name) + ":"
    members = []
    for row, value in enumerate(values):
        if value is None:
            members.append("")
            continue
        try:
            members.append(prefix + encode_attributes(check_json(value)))
        except (TypeError, ValueError, InvalidRequest) as error:
            raise InvalidRequest(f"attributes: column {name!r}, row {row:,}: {error}") from None
    return members


def _values_of_numpy(values: npt.NDArray[Any]) -> list[Any]:
    """The values as Python objects: times as `datetime`, which has microseconds."""
    if values.dtype.kind == "M" and np.datetime_data(values.dtype)[0] not in ("D", "M", "Y", "W"):
        values = values.astype("datetime64[us]")
    found: list[Any] = values.tolist()
    return found


def _values_of_arrow(column: Any) -> list[Any]:
    import pyarrow as pa

    is_time = pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)
    found: list[Any] = (texts_of_times(column) if is_time else column).to_pylist()
    return found


def texts_of_times(column: Any) -> Any:
    """The texts of an Arrow array of timestamps or dates, in the form of `lookalike.model.times`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_date(column.type):
        return column.cast(pa.date32()).cast(pa.string())
    # Without a zone, times are in UTC. Rounding before the cast cuts times before 1970 off in the same direction.
    whole = pc.floor_temporal(column.cast(pa.timestamp(column.type.unit)), unit="microsecond")
    return pc.strftime(whole.cast(pa.timestamp("us")), "%Y-%m-%dT%H:%M:%SZ")


def _is_arrow(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "pyarrow"


def texts_of_arrow(field: str, array: Any) -> Texts:
    """The strings of an Arrow array, without an object for each."""
    import pyarrow as pa

    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        raise InvalidRequest(f"{field}: are an Arrow array of {array.type}; give strings")
    if array.null_count:
        raise InvalidRequest(f"{field}: {array.null_count:,} are null; leave these rows out")
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    array = array.cast(pa.large_string())
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    text = b"" if data is None else data.to_pybytes()[bounds[0] : bounds[-1]]
    return Texts(text, bounds[1:] - bounds[0])

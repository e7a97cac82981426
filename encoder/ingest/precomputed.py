"""Owns the batch job of records that need no encoder: rows with codes, or with features for the collection's
hash, go from the table to the cluster's stream. Neither Ray nor torch; memory holds a few portions."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from encoder.hashing import LinearHash, from_bytes
from encoder.ingest.dead_letters import DeadLetters
from encoder.ingest.images import row_url
from encoder.ingest.rate import SendRate
from encoder.ingest.rows import Ready, ready_of, remains_of
from encoder.ingest.selection import Choice
from encoder.ingest.sending import stream
from encoder.ingest.stats import Summary
from encoder.ingest.tables import Table, Unreadable
from lookalike.client.sync_client import Client
from lookalike.jobs.export import notes
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import (
    AlreadyExists,
    CodeSpaceMismatch,
    InvalidRequest,
    LookalikeError,
    NotFound,
)
from lookalike.model.indexing import Indexing
from lookalike.model.records import Collection, Record, attributes_text, check_code

Portions = Iterable[Sequence[Ready]]
Progress = Callable[[int], None]


def read_ready(
    tables: Sequence[Table], choice: Choice, letters: DeadLetters, summary: Summary
) -> Iterator[list[Ready]]:
    """The records of the tables that are chosen, in portions; what is none goes to the dead letters."""
    for table in tables:
        number = 0
        for portion in table.portions():
            yield list(choice.of(_readable(table, number, portion, letters, summary)))
            number += len(portion)
            summary.skipped = choice.skipped
            if choice.is_full:
                return


def _readable(
    table: Table,
    first: int,
    portion: Sequence[dict[str, object] | Unreadable],
    letters: DeadLetters,
    summary: Summary,
) -> Iterator[Ready]:
    for number, row in enumerate(portion, first):
        summary.found += 1
        try:
            if isinstance(row, Unreadable):
                raise InvalidRequest(row)
            yield ready_of(table, number, row)
        except InvalidRequest as error:
            summary.unreadable += 1
            remains = remains_of(table, number, row)
            letters.add(row_url(table.url, number), _key_of(row), error.message, *remains)


def _key_of(row: object) -> str | None:
    key = row.get("key") if isinstance(row, dict) else None
    return key if isinstance(key, str) else None


class Maker:
    """Makes records for one collection of what tables bring."""

    def __init__(self, space: CodeSpace, indexing: Indexing, hash_file: bytes) -> None:
        self._space = space
        self._indexing = indexing
        self._hash_file = hash_file
        self._hash: LinearHash | None = None

    def records(self, portion: Sequence[Ready], refused: Callable[[Ready, str], None]) -> list[Record]:
        """The portion's records; refused: told of what is none."""
        made = []
        for ready in self._hashed(portion, refused):
            try:
                assert ready.code is not None, "every code is made by now"
                check_code(ready.code, self._space, "the row")
                attributes_text(ready.fields)
                made.append(
                    Record(
                        ready.key, code=ready.code, attributes=ready.fields, features=self._kept(ready),
                        thumbnail=ready.thumbnail,
                    )
                )  # fmt: skip
            except InvalidRequest as error:
                refused(ready, error.message)
        return made

    def _kept(self, ready: Ready) -> np.ndarray[tuple[int], np.dtype[np.float32]] | None:
        """The features, where the collection keeps them. Raises InvalidRequest for another width."""
        if not self._indexing.keeps_features:
            return None
        width = self._indexing.feature_width
        if ready.features is None or len(ready.features) != width:
            found = 0 if ready.features is None else len(ready.features)
            raise InvalidRequest(f"features: are {found:,}; this collection keeps {width:,} of each record")
        return ready.features

    def _hashed(self, portion: Sequence[Ready], refused: Callable[[Ready, str], None]) -> Iterator[Ready]:
        """The portion with codes made of features where there are none."""
        bare = [ready for ready in portion if ready.code is None]
        if not bare:
            yield from portion
            return
        hashing = self._required_hash()
        vectors = {
            id(ready): ready.features
            for ready in bare
            if ready.features is not None and len(ready.features) == hashing.width
        }
        codes = hashing.codes(np.stack(list(vectors.values()))) if vectors else ()
        made = {place: code.tobytes() for place, code in zip(vectors, codes, strict=True)}
        for ready in portion:
            if ready.code is not None:
                yield ready
            elif id(ready) in made:
                yield dataclasses.replace(ready, code=made[id(ready)])
            else:
                count = 0 if ready.features is None else len(ready.features)
                refused(ready, f"features: are {count:,}; the collection's hash takes {hashing.width:,}")

    def _required_hash(self) -> LinearHash:
        if not self._hash_file:
            raise InvalidRequest(
                "features: this collection keeps no hash to make codes with; make it with the encoder's code"
                " space, or bring codes"
            )
        self._hash = self._hash or from_bytes(self._hash_file, "the collection's hash")
        return self._hash


def maker_for(client: Client, target: Collection) -> Maker:
    """What makes records for a collection that is there."""
    return Maker(target.code_space, target.indexing, client.get_hash_file(target.name))


def maker_without(tables: Sequence[Table], portions: Portions) -> tuple[Maker, Portions]:
    """What would make records for the collection that `open_collection` would make; and the portions."""
    space, indexing, portions = _new_collection(tables, portions)
    return Maker(space, indexing, b""), portions


def open_collection(
    client: Client, name: str, tables: Sequence[Table], portions: Portions
) -> tuple[Collection, Portions]:
    """The collection; it is made now, for the first record's code or as the file's export notes, if there is
    none; and the portions. Raises CodeSpaceMismatch when a file is of another code space."""
    try:
        found = client.get_collection(name)
    except NotFound:
        space, indexing, portions = _new_collection(tables, portions)
        # Or another job makes it at this moment.
        with contextlib.suppress(AlreadyExists):
            client.create_collection(
                name, code_space=space, index=indexing.kind, index_attributes=indexing.attributes,
                features=indexing.features, feature_width=indexing.feature_width,
            )  # fmt: skip
        found = client.get_collection(name)
    require_space(found, noted_space(tables))
    return found, portions


def _new_collection(tables: Sequence[Table], portions: Portions) -> tuple[CodeSpace, Indexing, Portions]:
    """What a collection for these records must be. Raises NotFound when they do not say it."""
    noted = _noted(tables)
    if noted is not None:
        return *noted, portions
    portions = iter(portions)
    first = next((portion for portion in portions if portion), ())
    code = next((ready.code for ready in first if ready.code is not None), None)
    if code is None:
        raise NotFound(
            "collection: there is none of that name, and no code in the files says how wide its codes are; make it"
            " first with `lookalike collection create`"
        )
    return CodeSpace(8 * len(code)), Indexing(), itertools.chain([first], portions)


def require_space(target: Collection, noted: CodeSpace | None) -> None:
    """Raise CodeSpaceMismatch unless codes of the noted space, if there is one, belong in the collection."""
    if noted is not None and noted.fingerprint != target.code_space.fingerprint:
        raise CodeSpaceMismatch(
            f"collection {target.name!r} is in code space {target.code_space.fingerprint[:12]}…, the file's codes"
            f" in {noted.fingerprint[:12]}…; name another collection"
        )


def noted_space(tables: Sequence[Table]) -> CodeSpace | None:
    """The code space that the tables' writers noted; None when none did. Raises CodeSpaceMismatch when they
    differ."""
    noted = _noted(tables)
    return None if noted is None else noted[0]


def _noted(tables: Sequence[Table]) -> tuple[CodeSpace, Indexing] | None:
    found = [noted for table in tables if (noted := notes.read(table.notes)) is not None]
    if len({space for space, _ in found}) > 1:
        raise CodeSpaceMismatch("path: the files' codes are of several code spaces; ingest each space on its own")
    return found[0] if found else None


def run(
    client: Client,
    target: Collection,
    portions: Portions,
    letters: DeadLetters,
    summary: Summary,
    progress: Progress,
    patience_seconds: float,
    bucket: SendRate,
) -> None:
    """Store the records, counting into `summary`."""
    maker = maker_for(client, target)

    def unreadable(ready: Ready, reason: str) -> None:
        summary.unreadable += 1
        letters.add(ready.uri, ready.key, reason, ready.fields, ready.code or b"")

    def records() -> Iterator[Record]:
        for portion in portions:
            made = maker.records(portion, unreadable)
            bucket.take(len(made))
            for record in made:
                summary.bytes += len(record.code or b"")
                yield record

    def refused(record: Record, error: LookalikeError) -> None:
        summary.not_stored += 1
        code = bytes(record.code or b"")
        letters.add("", record.key, f"not stored: {error.message}", record.attributes, code)

    for count in stream(client, target.name, records(), patience_seconds, refused):
        summary.stored += count
        progress(count)


def dry_run(
    portions: Portions,
    maker: Maker,
    letters: DeadLetters,
    summary: Summary,
    progress: Progress,
) -> None:
    """Check every record as the cluster would; the account says how many could be stored."""

    def refused(ready: Ready, reason: str) -> None:
        summary.unreadable += 1
        letters.add(ready.uri, ready.key, reason, ready.fields, ready.code or b"")

    for portion in portions:
        made = maker.records(portion, refused)
        summary.encoded += len(made)
        summary.bytes += sum(len(record.code or b"") for record in made)
        progress(len(portion))

"""Owns what the columns of a table mean: which is the key, the image, the code and so on. The user says so,
a column has a name that `encoder.ingest.rows` knows, or its meaning is guessed from names and types that common
tools write."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lookalike.model.errors import InvalidRequest

# What a column holds. "bytes": binary; "image": a struct with the fields bytes and path; "floats" and "integers":
# lists of them; "vector": long lists of floats; "unsupported": values that JSON has no form for.
Kind = Literal["text", "bytes", "image", "number", "bool", "floats", "integers", "vector", "other", "unsupported"]


class Unreadable(str):
    """The reason why a row cannot be read."""


class Skipped(str):
    """The reason why a file in an archive does not become a row. Such files are counted."""


Row = dict[str, Any] | Unreadable | Skipped

# The names that `encoder.ingest.rows` knows.
ROLES = ("key", "image", "uri", "code", "features", "thumbnail", "attributes")
_ALSO_KNOWN = frozenset(("feature", "version"))
_VECTOR = "it holds long lists of numbers; name features with --columns features=COLUMN"
# A list of more floats than this is a "vector".
MAX_LIST = 64
# By role: what a column must hold, and the names that tools give it, in the order in which they are tried.
_GUESSES: tuple[tuple[str, tuple[Kind, ...], tuple[str, ...]], ...] = (
    ("image", ("bytes", "image"), (
        "jpg", "jpeg", "png", "webp", "img", "image_bytes", "picture", "photo", "bytes",
    )),
    ("code", ("bytes", "text", "integers"), (
        "phash", "dhash", "ahash", "whash", "colorhash", "pdq", "pdq_hash", "pdqhash", "image_hash",
        "binary_vector", "ubinary",
    )),
    ("features", ("floats", "vector"), ("embedding", "embeddings", "vector", "emb")),
    ("uri", ("text",), (
        "file_name", "filename", "filepath", "file_path", "image_path", "img_path", "path", "file", "coco_url",
        "image_url", "url",
    )),
    ("key", ("text", "number"), ("__key__", "id", "_id", "uuid", "pk", "image_id")),
)  # fmt: skip
# Columns that number the rows, as pandas writes its index.
_INDEXES = ("", "__index_level_0__", "Unnamed: 0")


@dataclasses.dataclass(frozen=True, slots=True)
class Naming:
    """What columns mean.

    Attributes:
        roles: A column's name in the file, by the name that `encoder.ingest.rows` knows. Columns that are not
            listed keep their names.
        left_out: The columns, by their names in the file, that are not used.
        classes: By column, the names of the classes that its numbers stand for.
        remarks: What was guessed or left out, as sentences for the user.
    """

    roles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    classes: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def written(self, role: str) -> str:
        """The name in the file of the column with this role."""
        return self.roles.get(role, role)

    def renamed(self, column: str) -> str:
        """The name that `encoder.ingest.rows` knows for a column of the file, or its own."""
        return next((role for role, name in self.roles.items() if name == column), column)

    def applied(self, row: Row) -> Row:
        """Returns a row under the names that `encoder.ingest.rows` knows, without columns that are left out."""
        if not isinstance(row, dict) or not (self.roles or self.left_out or self.classes):
            return row
        return {
            self.renamed(name): self._value(name, value)
            for name, value in row.items()
            if name not in self.left_out
        }

    def _value(self, name: str, value: Any) -> Any:
        names = self.classes.get(name)
        if names is None or not isinstance(value, int):
            return value
        # Hugging Face writes -1 for an example without a label.
        return names[value] if 0 <= value < len(names) else None


AS_WRITTEN = Naming()


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What the user says of columns: columns by role, as `--columns` gives them, and columns to leave out."""

    roles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dropped: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, columns: str, dropped: str, known: Sequence[str] = ROLES) -> Choice:
        """Reads `key=id,image=jpg` and `name,name`. known: the roles that exist. Raises InvalidRequest."""
        roles: dict[str, str] = {}
        for part in filter(None, columns.split(",")):
            role, equals, name = part.partition("=")
            if not equals or not name or role not in known:
                raise InvalidRequest(
                    f"columns: {part!r} is not ROLE=COLUMN, where ROLE is one of {', '.join(known)}; write for"
                    f" example key=id,{known[1]}=column"
                )
            if role in roles:
                raise InvalidRequest(f"columns: {role} is given twice; name one column")
            roles[role] = name
        return cls(roles, frozenset(filter(None, dropped.split(","))))


def choose(
    kinds: Mapping[str, Kind], choice: Choice, classes: Mapping[str, Sequence[str]] | None = None
) -> Naming:
    """Decides what the columns of a table mean.

    Args:
        kinds: What each column holds, by its name in the file.
        choice: What the user says.
        classes: By column, the names of the classes that its numbers stand for.

    Raises:
        InvalidRequest: If the user names a column that the table does not have.
    """
    for option, named in (("columns", list(choice.roles.values())), ("drop", sorted(choice.dropped))):
        if missing := [name for name in named if name not in kinds]:
            shown = ", ".join(repr(name[:40]) for name in list(kinds)[:20])
            raise InvalidRequest(f"{option}: there is no column {missing[0][:80]!r}; the columns are {shown}")
    remarks: list[str] = []
    left_out = set(choice.dropped)
    for name, kind in kinds.items():
        if name not in left_out and (reason := _why_left_out(name, kind, choice)):
            left_out.add(name)
            remarks.append(f"column {name!r} is left out: {reason}")
    roles = dict(choice.roles)
    for role, accepted, names in _GUESSES:
        guess = next((n for n in names if kinds.get(n) in accepted and n not in left_out), None)
        if guess is None or guess in roles.values() or _is_decided(role, roles, kinds, left_out):
            continue
        roles[role] = guess
        remarks.append(f"using column {guess!r} as the {_WORDS[role]}")
    for name, kind in kinds.items():
        taken = name in roles.values() or name in left_out or name in ROLES or name in _ALSO_KNOWN
        if not taken and kind in ("bytes", "image", "vector"):
            left_out.add(name)
            remarks.append(f"column {name!r} is left out: {_VECTOR if kind == 'vector' else 'it holds bytes'}")
    # A column whose name is given to another column cannot be used.
    for role, name in roles.items():
        if role in kinds and role != name and role not in left_out:
            left_out.add(role)
            remarks.append(f"column {role!r} is left out: column {name!r} is the {_WORDS.get(role, role)}")
    return Naming(roles, frozenset(left_out), dict(classes or {}), tuple(remarks))


_WORDS = {
    "key": "key", "image": "image", "uri": "image's path", "code": "code", "features": "features",
    "thumbnail": "thumbnail", "attributes": "attributes",
}  # fmt: skip


def _why_left_out(name: str, kind: Kind, choice: Choice) -> str | None:
    if name in choice.roles.values() or name in ROLES:
        return None
    if name in _INDEXES:
        return "it numbers the rows"
    return "JSON has no form for its values" if kind == "unsupported" else None


def _is_decided(role: str, roles: Mapping[str, str], kinds: Mapping[str, Kind], left_out: set[str]) -> bool:
    """Whether the table needs no guess for a role, because a column has it or other columns make it needless."""
    used = roles.keys() | ((kinds.keys() - left_out) & (frozenset(ROLES) | _ALSO_KNOWN))
    if role in used:
        return True
    has_image = bool({"image", "uri"} & used)
    has_code = bool({"code", "features", "feature"} & used)
    # A row's path is its key. Codes have no path, so that their key must come from a column.
    return {"image": has_code or has_image, "code": has_image, "features": has_image or has_code,
            "uri": has_image or has_code, "key": "uri" in used or kinds.get("image") == "text"}[role]  # fmt: skip

"""API keys: what they may do, how they are rotated, and what the file shows."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from lookalike.model.errors import CannotStart, InvalidRequest, NotFound
from lookalike.server.security.keys import Key, KeyRing, describe, load_keys, parse_grant, save_keys

NOW = 1_000_000.0


def test_role_includes_lower_roles_and_only_its_collection() -> None:
    key = Key("shop", {"photos": "write", "*": "search"})
    assert [key.may(role, "photos") for role in ("search", "write", "admin")] == [True, True, False]
    assert [key.may(role, "others") for role in ("search", "write", "admin")] == [True, False, False]
    assert not Key("shop", {"photos": "admin"}).may("search", "photos2")


def test_issued_key_is_known_and_similar_ones_are_not() -> None:
    ring, issued = KeyRing().added("shop", {"*": "search"}, None)
    holder = ring.holder(issued, NOW)
    assert holder is not None
    assert holder.name == "shop"
    other = "A" if issued[-1] != "A" else "B"
    for wrong in (
        "",
        "lk_",
        issued[:-1],
        issued[:-1] + other,
        issued + "A",
        issued.upper(),
        "lk_é_" + issued[16:],
    ):
        assert ring.holder(wrong, NOW) is None


def test_old_secret_of_a_rotated_key_expires() -> None:
    ring, old = KeyRing().added("shop", {"*": "search"}, None)
    ring, new = ring.rotated("shop", 3600, NOW)
    assert ring.holder(new, NOW + 1e9)
    assert ring.holder(old, NOW + 3599)
    assert ring.holder(old, NOW + 3600) is None
    ring, newest = ring.rotated("shop", 0, NOW)
    assert ring.holder(new, NOW) is None
    assert ring.holder(newest, NOW)


def test_second_rotation_does_not_prolong_the_first_secret() -> None:
    ring, first = KeyRing().added("shop", {"*": "search"}, None)
    ring, _ = ring.rotated("shop", 100, NOW)
    ring, _ = ring.rotated("shop", 1000, NOW + 50)
    assert ring.holder(first, NOW + 99)
    assert ring.holder(first, NOW + 101) is None


def test_removed_key_is_unknown() -> None:
    ring, issued = KeyRing().added("shop", {"*": "search"}, None)
    assert ring.removed("shop").holder(issued, NOW) is None
    with pytest.raises(NotFound, match="name: there is no key 'shop'"):
        ring.removed("shop").removed("shop")


def test_file_has_no_secret_is_private_and_loads_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring, issued = KeyRing().added("shop", {"photos": "write"}, 12.5)
    save_keys(path, ring)
    assert path.stat().st_mode & 0o777 == 0o600
    assert issued not in path.read_text()
    assert issued.split("_", 2)[2] not in path.read_text()
    again = load_keys(path)
    assert again.keys == ring.keys
    assert again.holder(issued, NOW)
    assert list(tmp_path.iterdir()) == [path]
    assert "sha256" not in json.dumps(describe(again.keys["shop"], NOW))


def test_rewritten_key_file_keeps_its_mode_and_owner(tmp_path: Path) -> None:
    """As read by a container's user, who neither owns the file nor is in its group."""
    path = tmp_path / "keys.json"
    path.write_text('{"keys": []}')
    path.chmod(0o444)
    if os.geteuid() == 0:
        os.chown(path, 10001, 10002)
    before = path.stat()
    ring, _ = load_keys(path).added("shop", {"*": "search"}, None)
    save_keys(path, ring)
    after = path.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"keys": [{}]}', '{"keys": [{"name": "a", "grants": {"*": "god"}, "secrets": []}]}']
)
def test_file_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(CannotStart, match=r"config: security.keys: .* is not a file made by `lookalike keys`"):
        load_keys(path)


@pytest.mark.parametrize(
    "change",
    [
        {"rate": 0},
        {"rate": -1},
        {"rate": "fast"},
        {"rate": math.inf},
        {"secrets": [{"id": "0" * 12, "sha256": "0" * 64, "expires": "2030"}]},
        {"secrets": [{"id": "0" * 12, "sha256": "0" * 64, "expires": 1e300}]},
        {"secrets": [{"id": "0" * 12, "sha256": "é" * 64, "expires": None}]},
    ],
)
def test_file_with_an_invalid_key_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "keys.json"
    save_keys(path, KeyRing().added("shop", {"*": "search"}, 1)[0])
    document = json.loads(path.read_text())
    document["keys"][0] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(CannotStart, match="is not a file made by `lookalike keys`"):
        load_keys(path)


def test_missing_file_names_the_command_that_creates_it(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="`lookalike keys add` creates it"):
        load_keys(tmp_path / "none.json")


def test_grants_are_parsed_and_invalid_ones_refused() -> None:
    assert parse_grant("search:photos") == ("photos", "search")
    assert parse_grant("admin") == ("*", "admin")
    with pytest.raises(InvalidRequest, match="grant: 'root:photos' has no role"):
        parse_grant("root:photos")
    for pattern in ("pho*", "../photos", "a,b"):
        with pytest.raises(InvalidRequest, match=r"grant: .* is not a valid collection name; write one name"):
            parse_grant(f"search:{pattern}")
    with pytest.raises(InvalidRequest, match="rate: is inf; use a number per second"):
        KeyRing().added("shop", {"*": "search"}, math.inf)
    with pytest.raises(InvalidRequest, match="grant: is missing"):
        KeyRing().added("shop", {}, None)
    with pytest.raises(InvalidRequest, match=r"name: .* is not a valid name"):
        KeyRing().added("two words", {"*": "search"}, None)

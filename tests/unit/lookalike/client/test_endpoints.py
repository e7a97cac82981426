"""Round-robin over several coordinators. The channels are real, but nothing listens at the other end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from lookalike.client.endpoints import Coordinators, addresses_of
from lookalike.model.errors import DeadlineExceeded, InvalidRequest, NotFound, PartitionUnavailable

SILENCE = PartitionUnavailable("does not answer")


@pytest.fixture
def three() -> Iterator[Coordinators]:
    coordinators = Coordinators(grpc, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"])
    yield coordinators
    for channel in coordinators.close():
        channel.close()


def test_addresses_are_parsed_from_text_and_from_a_list() -> None:
    assert addresses_of("a:1") == ["a:1"]
    assert addresses_of("a:1, b:2") == ["a:1", "b:2"]
    # In a list, an address may contain commas.
    assert addresses_of(["ipv4:1.2.3.4:5,1.2.3.5:5"]) == ["ipv4:1.2.3.4:5,1.2.3.5:5"]


@pytest.mark.parametrize("given", ["", "a:1,", [], [""], [7], None, "a", "http://a:1"])
def test_malformed_address_is_an_error(given: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"address: is .* give HOST:PORT"):
        addresses_of(given)


@pytest.mark.parametrize("tls", [None, "ca.pem"])
def test_malformed_tls_is_an_error(tls: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"tls: is .* use True, False or a lookalike.Tls"):
        Coordinators(grpc, "a:1", tls=tls)


def test_calls_go_to_the_endpoints_in_turn(three: Coordinators) -> None:
    first = [three.next().address for _ in range(3)]
    assert len(set(first)) == 3
    assert [three.next().address for _ in range(3)] == first


def test_silent_endpoint_is_skipped_and_another_is_tried_at_once(three: Coordinators) -> None:
    silent = three.next()
    assert three.failed(silent, SILENCE)
    assert silent not in [three.next() for _ in range(6)]


def test_when_all_back_off_the_first_to_recover_is_next(three: Coordinators) -> None:
    members = [three.next() for _ in range(3)]
    assert [three.failed(member, SILENCE) for member in members] == [True, True, False]
    assert three.next() is members[0]


def test_slow_endpoint_is_skipped_but_its_call_is_not_retried(three: Coordinators) -> None:
    late = three.next()
    assert not three.failed(late, DeadlineExceeded("too late"))
    assert late not in [three.next() for _ in range(6)]


def test_endpoint_that_answers_with_an_error_is_not_skipped(three: Coordinators) -> None:
    answered = PartitionUnavailable("partition 1 does not answer")
    answered.request_id = "abc"
    member = three.next()
    assert not three.failed(member, answered)
    assert not three.failed(member, NotFound("collection"))
    assert member in [three.next() for _ in range(3)]

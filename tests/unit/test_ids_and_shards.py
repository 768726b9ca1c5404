"""Event ids, and the lane in which an event travels."""

from collections import Counter
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.change import MAX_EVENT_ID, RANDOM_BYTES, check_event_id, event_ids, lane_of, shard_of
from pipeline.core.values import identity
from pipeline.errors import InvalidEvent

RANDOMNESS = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)
MS = st.integers(0, 2**48 - 1)


def event_id(unix_ms: int, randomness: bytes) -> str:
    (text,) = event_ids(unix_ms, randomness)
    return text


@given(MS, RANDOMNESS)
def test_an_event_id_is_a_uuid_of_version_7_that_holds_the_time(unix_ms: int, randomness: bytes) -> None:
    text = event_id(unix_ms, randomness)
    uuid = UUID(text)
    assert str(uuid) == text
    assert (uuid.version, uuid.variant) == (7, "specified in RFC 4122")
    assert uuid.int >> 80 == unix_ms


@given(MS, RANDOMNESS)
def test_every_random_bit_is_in_the_id(unix_ms: int, randomness: bytes) -> None:
    number = UUID(event_id(unix_ms, randomness)).int
    bits = int.from_bytes(randomness)  # four of the second byte stand where the variant leaves room for two
    assert number >> 64 & 0xFFF == bits >> 68
    assert number & 2**62 - 1 == bits >> 4 & 2**62 - 1


@given(MS, st.lists(RANDOMNESS, max_size=5))
def test_many_ids_are_the_ids_of_each_randomness(unix_ms: int, parts: list[bytes]) -> None:
    assert event_ids(unix_ms, b"".join(parts)) == [event_id(unix_ms, part) for part in parts]


@given(MS, MS, RANDOMNESS, RANDOMNESS)
def test_later_ids_sort_after_earlier_ones_as_text(one: int, other: int, bits: bytes, more_bits: bytes) -> None:
    if one != other:
        assert (event_id(one, bits) < event_id(other, more_bits)) == (one < other)


def test_the_layout_of_an_id_is_that_of_the_rfc() -> None:
    # RFC 9562, appendix A.6
    randomness = bytes.fromhex("cc3 1 8c4 dc0c0c07398f 0".replace(" ", ""))
    assert event_id(0x017F22E279B0, randomness) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@pytest.mark.parametrize("text", ["a", "order:42", "größe", "x" * MAX_EVENT_ID, "with space"])
def test_printable_text_is_an_event_id(text: str) -> None:
    assert check_event_id(text) == text


def test_a_uuid_becomes_its_text() -> None:
    assert check_event_id(UUID(int=7)) == "00000000-0000-0000-0000-000000000007"


@pytest.mark.parametrize("event", ["", "x" * (MAX_EVENT_ID + 1), "a\nb", "\x00", "\ud800", None, 7, b"a", ["a"]])
def test_anything_else_is_no_event_id(event: object) -> None:
    with pytest.raises(InvalidEvent, match="event id"):
        check_event_id(event)


# --- lanes ------------------------------------------------------------------------------------------------------------


@given(st.text(), st.none() | st.text(), st.text(), st.integers(1, 1024))
def test_a_change_by_itself_travels_in_the_lane_of_a_group_of_one(
    table: str, name: str | None, event: str, shards: int
) -> None:
    assert lane_of(table, name, event, shards) == shard_of([(table, name)], None, event, shards)


def lane(number: int, shards: int = 8) -> int:
    return shard_of([("page_views", identity({"page_id": number}))], None, "event", shards)


def test_the_lane_of_a_row_never_changes() -> None:
    # Golden: with other numbers, an upgrade would move rows between lanes while their events are pending.
    assert [lane(number) for number in range(16)] == [5, 3, 1, 7, 4, 2, 0, 6, 7, 1, 4, 2, 0, 6, 5, 3]
    assert shard_of([("carts", "sku=A1&user_id=3")], None, "event", 8) == 4
    assert shard_of([], "order:42", "event", 8) == 3
    assert shard_of([("log", None)], None, "019…", 8) == 3


def test_rows_spread_evenly_over_the_lanes() -> None:
    count = Counter(lane(number) for number in range(8000))
    assert len(count) == 8
    assert all(850 < rows < 1150 for rows in count.values())


def test_inserts_spread_by_their_ids() -> None:
    ids = [event_id(1_700_000_000_000 + number, number.to_bytes(RANDOM_BYTES)) for number in range(8000)]
    count = Counter(shard_of([("log", None)], None, event, 8) for event in ids)
    assert all(850 < events < 1150 for events in count.values())


def test_shard_by_decides_for_every_row() -> None:
    lanes = {shard_of([("t", f"id={number}"), ("u", None)], "order:42", str(number), 8) for number in range(100)}
    assert len(lanes) == 1


def test_rows_of_one_lane_make_a_group_without_shard_by() -> None:
    same = [f"page_id={number}" for number in range(100) if lane(number) == 3]
    assert shard_of([("page_views", name) for name in same] + [("log", None)], None, "event", 8) == 3


def test_rows_of_two_lanes_need_a_shard_by() -> None:
    rows = [("page_views", f"page_id={number}") for number in range(16)]
    with pytest.raises(InvalidEvent, match="shard_by="):
        shard_of(rows, None, "event", 8)


def test_one_lane_takes_everything() -> None:
    assert shard_of([("t", f"id={number}") for number in range(100)], None, "event", 1) == 0


@pytest.mark.parametrize("shard_by", [7, b"a", "\ud800", []])
def test_a_shard_by_that_is_no_text_is_refused(shard_by: str) -> None:
    with pytest.raises(InvalidEvent, match="shard_by"):
        shard_of([("t", "id=1")], shard_by, "event", 8)

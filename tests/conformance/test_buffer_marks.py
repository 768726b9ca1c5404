"""Any `Buffer`: an acknowledgement that need not ask of each row comes out as one that asks. (It looks into Redis.)"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, get_args

import msgspec
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.config import Config
from pipeline.ports import Claimed
from pipeline.reading import Missed, Place, Ticket
from tests.conformance.conftest import MakeBuffer
from tests.conformance.lane import accept, acknowledge, claimed, count, encoded, message_of
from tests.conformance.test_buffer_in_bulk import in_one_redis
from tests.conformance.whole_buffer import BlockingRows, WholeBuffer

Name = Literal["write", "slip", "take", "return", "look", "install", "decline", "claim", "done", "dead", "aside"]
Step = tuple[Name, int]

OVERLAY: Final = "pipeline.overlay.{0}:views:page="
ROW: Final = "pipeline.row.{0}:views:page="
QUEUE: Final = "pipeline.events.{0}"
TAKEN: Final = "pipeline.taken.{0}"
STATE: Final = "pipeline.shard.{0}"
AT_ONCE: Final[Sequence[Step]] = (("claim", 0), ("done", 0))
PAGES: Final = 3
BATCH: Final = 4
ALWAYS: Final = 2**53
"""A mark that says that everything must be asked."""


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def rows(redis_url: str) -> Iterator[BlockingRows]:
    rows = BlockingRows(Config(redis_url=redis_url, shards=1))
    yield rows
    rows.close()


class Course:
    """Steps of a writer, a reader, a flusher, and a Celery worker by mistake; ``asks``: whatever the marks say."""

    def __init__(self, buffer: WholeBuffer, rows: BlockingRows, client: Any, *, asks: bool) -> None:
        self._buffer = buffer
        self._rows = rows
        self._client = client
        self._asks = asks
        self._written = 0
        self._tickets: dict[int, Ticket] = {}
        self._claim: Claimed | None = None

    def run(self, steps: Sequence[Step]) -> list[object]:
        """What is in Redis after every acknowledgement."""
        self._client.delete(*self._client.keys("pipeline.*"), "-")
        sights = []
        for name, page in steps:
            if name in {"done", "dead", "aside"}:
                if self._claim is not None:
                    self._acknowledge(self._claim, name, page)
                    sights.append(self._sight())
                    self._claim = None
            elif name == "claim":
                claim = self._buffer.claim(0, "me")
                self._claim = claim if isinstance(claim, Claimed) else None
            else:
                self._touch(name, page)
        return sights

    def _touch(self, name: str, page: int) -> None:
        place = Place("views", f"page={page}", 0)
        if name == "write":
            self._written += 1
            self._buffer.write(0, [encoded(f"e{self._written}", count(page))])
        elif name == "slip":  # past the write script
            self._client.lpush(QUEUE, message_of(f"s{page}", b"null", count(page)))
        elif name == "take":
            self._client.lmove(QUEUE, TAKEN, "RIGHT", "LEFT")
        elif name == "return":
            for message in self._client.lrange(TAKEN, page, page):  # and maybe once more later
                self._client.rpush(QUEUE, message)
        elif name == "look":
            (found,) = self._rows.look([(place, True)])
            if isinstance(found, Missed) and found.ticket is not None:
                self._tickets[page] = found.ticket
        elif page in self._tickets:
            ticket = self._tickets.pop(page)
            if name == "install":
                self._rows.install(place, ticket, {"page": b"1", "n": b"0"}, fragile=False)
            else:
                self._rows.decline(place, ticket, seconds=1000)

    def _acknowledge(self, claim: Claimed, name: str, number: int) -> None:
        if self._asks:
            self._client.hset(STATE, mapping={"cached": ALWAYS, "stacked": ALWAYS})
            claim = msgspec.structs.replace(claim, cached=ALWAYS)
        chosen = {f"e{self._written - number}"} if name != "done" else set()
        assert acknowledge(
            self._buffer,
            claim,
            dead=chosen if name == "dead" else (),
            aside=chosen if name == "aside" else (),
        )

    def _sight(self) -> object:
        """Overlays, and cached rows with the kind of their tags and whether they expire."""
        overlays = [self._client.lrange(f"{OVERLAY}{page}", 0, -1) for page in range(PAGES)]
        hashes = [self._client.hgetall(f"{ROW}{page}") for page in range(PAGES)]
        for fields in hashes:
            if fields.get(b"", b"").startswith(b"?"):
                fields[b""] = b"?"
        return overlays, hashes, [self._client.ttl(f"{ROW}{page}") >= 0 for page in range(PAGES)]


@in_one_redis
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["write", *get_args(Name)]), st.integers(0, PAGES - 1)),
        max_size=40,
    )
)
@example([("write", 0), ("claim", 0), ("write", 0), ("done", 0), ("claim", 0), ("done", 0)])
@example([("write", 0), ("write", 1), ("claim", 0), ("look", 1), ("install", 1), ("done", 0)])
@example([("look", 0), ("install", 0), ("write", 0), ("claim", 0), ("dead", 0)])
@example([("write", 0), ("claim", 0), ("look", 0), ("decline", 0), ("done", 0)])
@example([("write", 0), ("write", 0), ("claim", 0), ("aside", 0), ("claim", 0), ("done", 0)])
@example([("write", 0), ("take", 0), ("return", 0), *AT_ONCE, ("return", 0), ("claim", 0), ("write", 0), ("done", 0)])
@example([("write", 0), ("write", 0), ("write", 1), ("take", 0), ("take", 0), ("return", 1), *AT_ONCE])
@example([("look", 0), ("install", 0), ("slip", 0), ("write", 1), *AT_ONCE])
def test_what_need_not_be_asked_changes_nothing(
    make_buffer: MakeBuffer, rows: BlockingRows, client: Any, steps: list[Step]
) -> None:
    buffer = make_buffer(batch_size=BATCH)
    spared = Course(buffer, rows, client, asks=False).run(steps)
    assert spared == Course(buffer, rows, client, asks=True).run(steps)


def commands(client: Any, name: str) -> int:
    found: dict[str, Any] = client.info("commandstats").get(f"cmdstat_{name}", {"calls": 0})
    return int(found["calls"])


def test_nothing_is_asked_of_rows_that_nobody_reads_or_writes_again(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer()
    buffer.write(0, [encoded(f"e{page}", count(page)) for page in range(100)])
    claim = claimed(buffer)
    before = commands(client, "lindex"), commands(client, "del")
    assert acknowledge(buffer, claim)
    assert (commands(client, "lindex"), commands(client, "del")) == (
        before[0],
        before[1] + 2,
    )  # overlays, and the batch


@pytest.mark.parametrize("cached", [False, True])
def test_of_a_shard_without_marks_every_row_is_asked(make_buffer: MakeBuffer, client: Any, *, cached: bool) -> None:
    """Its events were accepted by a version that does not keep them."""
    buffer = make_buffer(batch_size=1)
    if cached:
        client.hset(f"{ROW}1", mapping={"": "life", "page": 1, "n": 0})
    accept(buffer, "ab")
    client.hdel(STATE, "stacked", "cached")
    accept(buffer, "c", count(2))  # by this one
    for left in (1, 0):
        claim = claimed(buffer)
        assert acknowledge(buffer, claim)
        assert client.llen(f"{OVERLAY}1") == left
        assert client.exists(f"{ROW}1") == cached
        assert (client.ttl(f"{ROW}1") > 0) == (cached and not left)


def test_where_a_row_was_cached_already_its_name_is_given_at_once(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer()
    client.hset(f"{ROW}1", mapping={"": "life", "page": 1, "n": 0})
    accept(buffer, "ab")
    claim = claimed(buffer)
    before = commands(client, "evalsha")
    assert acknowledge(buffer, claim)
    assert commands(client, "evalsha") == before + 1

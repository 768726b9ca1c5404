"""Every `Wire` lends connections whose answers are nobody else's, whatever becomes of who asked."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import RedisError, ResponseError

from pipeline.buffer.wire import Call, Line, Source, Wire, sound
from pipeline.config import Config
from tests.conformance.conftest import both_ways
from tests.driving import Way

pytestmark = both_ways

ECHO = Source("return ARGV[1]")


class Interrupt(BaseException):
    """What a signal handler raises: Ctrl-C, or a time limit of Celery."""


@pytest.fixture
def wire(redis_url: str, way: Way) -> Iterator[Wire]:
    wire = way.wire(Config(redis_url=redis_url))
    yield wire
    way.drive(wire.close())


Use = Callable[[Line], Awaitable[Any]]


async def over(wire: Wire, use: Use) -> Any:
    """What ``use`` gives with a line of its own."""
    async with wire.line() as line:
        return await use(line)


async def number_of(line: Line) -> Any:
    """The server's number of the connection."""
    return sound(await line.send([("CLIENT", "ID")]))[0]


def test_a_connection_whose_answers_were_all_taken_is_used_again(wire: Wire, way: Way) -> None:
    assert way.drive(over(wire, number_of)) == way.drive(over(wire, number_of))


def test_an_answer_that_is_owed_goes_with_its_connection(wire: Wire, way: Way) -> None:
    async def leave(line: Line) -> Any:
        number = await number_of(line)
        await line.post([("ECHO", "mine"), ("ECHO", "mine, too")])
        await line.reply()
        return number

    left = way.drive(over(wire, leave))
    assert way.drive(over(wire, lambda line: line.send([("ECHO", "yours")]))) == [b"yours"]
    assert way.drive(over(wire, number_of)) != left


def test_an_answer_that_comes_late_goes_with_its_connection_too(wire: Wire, way: Way) -> None:
    way.drive(over(wire, lambda line: line.post([("BLPOP", "nothing", "0.1")])))
    assert way.drive(over(wire, lambda line: line.send([("ECHO", "yours")]))) == [b"yours"]


def test_wherever_somebody_is_interrupted_the_next_one_gets_his_own_answer(wire: Wire, way: Way) -> None:
    async def interrupted(line: Line, after: int) -> None:
        for step in range(4):
            if step == after:
                raise Interrupt
            await (line.post([("ECHO", "a"), ("ECHO", "b")]) if step == 0 else line.reply())

    for after in range(4):
        with pytest.raises(Interrupt):
            way.drive(over(wire, lambda line, after=after: interrupted(line, after)))  # type: ignore[misc]
        assert way.drive(over(wire, lambda line: line.send([("ECHO", "yours")]))) == [b"yours"]


def test_a_line_that_was_dropped_goes_on_over_another_connection(wire: Wire, way: Way) -> None:
    async def use(line: Line) -> tuple[Any, Any, list[Any]]:
        first = await number_of(line)
        await line.post([("ECHO", "forgotten")])
        await line.drop()
        return first, await number_of(line), await line.send([("ECHO", "heard")])

    first, second, heard = way.drive(over(wire, use))
    assert first != second
    assert heard == [b"heard"]
    assert way.drive(over(wire, number_of)) == second


def test_errors_of_redis_are_answers(wire: Wire, way: Way) -> None:
    replies = way.drive(over(wire, lambda line: line.send([("ECHO", "a"), ("NO", "SUCH"), ("ECHO", 7)])))
    assert [replies[0], replies[2]] == [b"a", b"7"]
    assert isinstance(replies[1], ResponseError)


def test_a_script_that_redis_does_not_know_is_loaded_and_only_what_did_not_run_is_run(
    wire: Wire, way: Way, redis_url: str
) -> None:
    calls: list[Call] = [([], [word]) for word in ("a", "b")]
    with redis.Redis.from_url(redis_url) as client:
        for _ in range(2):
            client.config_resetstat()
            assert way.drive(over(wire, lambda line: line.call(ECHO, calls))) == [b"a", b"b"]
        stats: Any = client.info("commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == 2
        assert "cmdstat_script|load" not in stats


def test_a_line_that_broke_says_so_and_the_next_one_is_well(wire: Wire, way: Way, redis_url: str) -> None:
    async def use(line: Line) -> str | None:
        assert line.broken is None
        with redis.Redis.from_url(redis_url) as client:
            client.client_kill_filter(_id=await number_of(line))
        with pytest.raises(RedisError):
            await line.send([("PING",)])
        return line.broken

    assert way.drive(over(wire, use))
    assert way.drive(over(wire, lambda line: line.send([("ECHO", "well")]))) == [b"well"]


def test_lines_that_are_used_at_once_have_connections_of_their_own(wire: Wire, way: Way) -> None:
    async def two(line: Line) -> tuple[Any, Any]:
        return await number_of(line), await over(wire, number_of)

    one, other = way.drive(over(wire, two))
    assert one != other


def test_a_wire_that_was_closed_connects_again(wire: Wire, way: Way) -> None:
    before = way.drive(over(wire, number_of))
    way.drive(wire.close())
    assert way.drive(over(wire, number_of)) != before


def test_any_number_of_connections_may_be_lost(redis_url: str, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.buffer.connection._CONNECTIONS", 3)
    wire = way.wire(Config(redis_url=redis_url))
    for _ in range(5):
        way.drive(over(wire, lambda line: line.post([("ECHO", "nobody waits for this")])))
    assert way.drive(over(wire, lambda line: line.send([("ECHO", "yours")]))) == [b"yours"]
    way.drive(wire.close())

"""What servers that cannot be had here say, and how a `Question` takes it; real ones: `test_durability`."""

from collections.abc import Sequence
from typing import Any, Self

import pytest
from redis.exceptions import ResponseError

from pipeline.buffer.durable import Question
from pipeline.buffer.wire import Command, Line
from pipeline.config import Config
from pipeline.driving import blocking_sleep, run

EVERYSEC = {b"appendfsync": b"everysec"}
HEALTHY = "aof_last_write_status:ok\r\naof_delayed_fsync:0\r\naof_rewrites:0\r\naof_rewrite_in_progress:0\r\n"


class Server(Line):
    """A line to a server that gives ``replies`` in turn, the last one for ever."""

    def __init__(self, *replies: Any) -> None:
        super().__init__(1.0)
        self.replies = list(replies)
        self.commands: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def _drop(self) -> None:
        pass

    async def _write(self, commands: Sequence[Command]) -> None:
        self.commands += [" ".join(map(str, command)) for command in commands]

    async def _read(self, seconds: float) -> Any:
        assert seconds > 0
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply


def missing(server: Server, seconds: float = 1.2) -> str | None:
    return run(Question(server, Config(durability_timeout_seconds=seconds), "disk", blocking_sleep).ask())


@pytest.mark.parametrize("policy", [EVERYSEC, [b"appendfsync", b"everysec"], ResponseError("NOPERM")])
def test_redis_8_is_taken_at_its_word(policy: object) -> None:
    server = Server([1, 0], policy, b"# Server\r\nredis_version:8.2.1\r\n")
    assert missing(server) is None
    assert server.commands == ["WAITAOF 1 0 1200", "CONFIG GET appendfsync", "INFO server"]


@pytest.mark.parametrize("policy", [{b"appendfsync": b"always"}, [b"appendfsync", b"always"]])
def test_a_server_that_fsyncs_always_is_taken_at_its_word(policy: object) -> None:
    server = Server([1, 0], policy)
    assert missing(server) is None
    assert server.commands == ["WAITAOF 1 0 1200", "CONFIG GET appendfsync"]


def test_a_server_whose_fsync_does_not_end_never_has_it_on_disk() -> None:
    running = f"{HEALTHY}aof_pending_bio_fsync:1\r\n".encode()
    assert missing(Server([1, 0], EVERYSEC, b"redis_version:7.2.4\r\n", running)) == (
        "no fsync within 1.2 s (PIPELINE_DURABILITY_TIMEOUT)"
    )


def test_a_server_that_does_not_say_whether_an_fsync_runs_never_has_it_on_disk() -> None:
    assert missing(Server([1, 0], EVERYSEC, b"redis_version:7.2.4\r\n", HEALTHY.encode())) is not None


def test_a_rewrite_of_the_file_starts_the_second_again() -> None:
    idle = f"{HEALTHY}aof_pending_bio_fsync:0\r\n"
    rewritten = idle.replace("aof_rewrites:0", "aof_rewrites:1").encode()
    version = b"redis_version:7.2.4\r\n"
    assert missing(Server([1, 0], EVERYSEC, version, idle.encode())) is None
    assert missing(Server([1, 0], EVERYSEC, version, idle.encode(), rewritten)) is not None


def test_a_server_that_cannot_write_its_file_says_so() -> None:
    failed = HEALTHY.replace("status:ok", "status:err").encode()
    problem = missing(Server([1, 0], EVERYSEC, b"redis_version:7.2.4\r\n", failed))
    assert problem is not None
    assert "cannot write its append-only file" in problem


def test_a_timeout_that_leaves_no_room_for_an_fsync_is_not_waited_for() -> None:
    assert missing(Server([1, 0], EVERYSEC, b"redis_version:7.2.4\r\n", HEALTHY.encode()), 0.1) == (
        "no fsync within 0.1 s (PIPELINE_DURABILITY_TIMEOUT)"
    )

"""Whatever step a process is killed at, alone or twice in a row, every accepted event takes effect exactly once."""

import itertools
from collections import Counter

import pytest

from pipeline import Change, Pipeline
from pipeline.flush import End
from pipeline.telemetry import Step
from tests.faults.mortal import KILLED, die_at, in_child
from tests.integration.scene import Scene, dead, disk_full, drain

SCHEMA = (
    "CREATE TABLE counter (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0, last int)",
    "CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what int NOT NULL)",
)
EVENTS = 60
POISON = (17, 41)
"""Events whose ``what`` is NULL: they must become dead letters, once each."""

FLUSH_STEPS = (
    (Step.CLAIMED, 1),
    (Step.CLAIMED, 2),
    (Step.LOCKED, 1),
    (Step.ATTEMPTED, 1),
    (Step.ATTEMPTED, 3),
    (Step.BURIED, 1),
    (Step.COMMITTING, 1),
    (Step.COMMITTED, 1),
    (Step.COMMITTED, 2),
    (Step.ACKNOWLEDGED, 1),
)
SETTINGS = {"batch_size": 25, "lease_seconds": 0.02}
"""Several batches; and the shard of a killed flusher is free again at once."""


def write_events(pipeline: Pipeline) -> None:
    for n in range(EVENTS):
        pipeline.write_group(
            [
                Change("counter", key={"id": n % 7}, add={"n": n}, set={"last": n}),
                Change("log", insert={"what": None if n in POISON else n}),
            ],
            shard_by="one",
        )


def flush_once(pipeline: Pipeline) -> None:
    """Flush until everything is written or set aside."""
    while pipeline.flush_shard(0).end not in {End.EMPTY, End.PAUSED}:
        pass


def check(scene: Scene, pipeline: Pipeline) -> None:
    """Compare with sums that are made here, by hand."""
    good = [n for n in range(EVENTS) if n not in POISON]
    sums: Counter[int] = Counter()
    for n in good:
        sums[n % 7] += n
    last = {n % 7: n for n in good}
    assert scene.sql("SELECT id, n, last FROM counter ORDER BY id") == [(i, sums[i], last[i]) for i in range(7)]
    assert scene.sql("SELECT what FROM log ORDER BY what") == [(n,) for n in good]
    assert len(dead(pipeline)) == len(POISON)
    status = pipeline.status()
    assert (status.pending, status.frozen) == (0, 0)
    assert scene.redis.keys("pipeline.overlay.*") == []


def prepare(scene: Scene) -> Pipeline:
    for statement in SCHEMA:
        scene.sql(statement)
    pipeline = scene.pipeline(**SETTINGS)
    write_events(pipeline)
    return pipeline


@pytest.mark.parametrize(("step", "times"), FLUSH_STEPS)
def test_a_flush_that_is_killed_at_a_step_neither_loses_nor_doubles(scene: Scene, step: Step, times: int) -> None:
    pipeline = prepare(scene)
    assert in_child(scene.config(**SETTINGS), die_at(step, times), drain) == KILLED
    drain(pipeline)
    check(scene, pipeline)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(FLUSH_STEPS, repeat=2)))
def test_a_flush_that_is_killed_twice_neither_loses_nor_doubles(
    scene: Scene, first: tuple[Step, int], second: tuple[Step, int]
) -> None:
    pipeline = prepare(scene)
    assert in_child(scene.config(**SETTINGS), die_at(*first), drain) == KILLED
    assert in_child(scene.config(**SETTINGS), die_at(*second), drain) in {KILLED, 0}
    drain(pipeline)
    check(scene, pipeline)


def test_a_batch_that_is_halved_because_its_workers_died_is_applied_once(scene: Scene) -> None:
    pipeline = prepare(scene)
    for _ in range(3):
        assert in_child(scene.config(**SETTINGS), die_at(Step.LOCKED), drain) == KILLED
    assert in_child(scene.config(**SETTINGS), die_at(Step.HALVED), drain) == KILLED
    drain(pipeline)
    check(scene, pipeline)


def test_a_failure_that_was_just_recorded_is_tried_again(scene: Scene) -> None:
    pipeline = prepare(scene)
    with disk_full(scene, "log"):
        assert in_child(scene.config(**SETTINGS), die_at(Step.FAILED), drain) == KILLED
    drain(pipeline)
    check(scene, pipeline)


PAUSING_STEPS = ((Step.PAUSED, 1), (Step.COMMITTED, 1), (Step.COMMITTED, 2), (Step.ACKNOWLEDGED, 1))


@pytest.mark.parametrize(
    ("breakage", "repair"),
    [
        ("ALTER TABLE log RENAME TO journal", "ALTER TABLE journal RENAME TO log"),
        ("ALTER TABLE log RENAME COLUMN what TO which", "ALTER TABLE log RENAME COLUMN which TO what"),
    ],
    ids=["table", "column"],
)
@pytest.mark.parametrize(("step", "times"), PAUSING_STEPS)
def test_what_is_set_aside_while_workers_die_is_applied_once(
    scene: Scene, step: Step, times: int, breakage: str, repair: str
) -> None:
    pipeline = prepare(scene)
    scene.sql(breakage)
    assert in_child(scene.config(**SETTINGS), die_at(step, times), flush_once) == KILLED
    flush_once(pipeline)
    scene.sql(repair)
    assert in_child(scene.config(**SETTINGS), die_at(Step.RESUMED), drain) == KILLED
    assert in_child(scene.config(**SETTINGS), die_at(Step.COMMITTED), drain) == KILLED
    drain(pipeline)
    check(scene, pipeline)


RESUMING_STEPS = ((Step.RESUMED, 1), (Step.CLAIMED, 1), (Step.COMMITTED, 1), (Step.COMMITTED, 2))


@pytest.mark.parametrize(("first", "second"), list(itertools.product(PAUSING_STEPS, RESUMING_STEPS)))
def test_what_waits_for_a_column_while_workers_die_is_applied_once_and_in_order(
    scene: Scene, first: tuple[Step, int], second: tuple[Step, int]
) -> None:
    """Every third event of a row waits, and so what follows on its row; one row in seven has none that does."""
    scene.sql("CREATE TABLE counter (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0)")
    scene.sql("CREATE TABLE seen (place bigint GENERATED ALWAYS AS IDENTITY, id int, n bigint)")
    scene.sql(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO public.seen (id, n) VALUES (NEW.id, NEW.n); RETURN NULL; END $$"
    )
    scene.sql("CREATE TRIGGER note AFTER INSERT OR UPDATE ON counter FOR EACH ROW EXECUTE FUNCTION note()")
    settings = {**SETTINGS, "batch_size": 10}
    pipeline = scene.pipeline(**settings)
    for n in range(EVENTS):
        later = {"later": n} if n % 3 == 2 and n % 7 else {}
        pipeline.write("counter", {"id": n % 7}, add={"n": n + 1}, set=later)
    assert in_child(scene.config(**settings), die_at(*first), flush_once) == KILLED
    flush_once(pipeline)
    assert scene.sql("SELECT n FROM counter WHERE id = 0") == [(sum(n + 1 for n in range(0, EVENTS, 7)),)]
    assert list(pipeline.status().shards[0].paused) == ["counter.later"]
    scene.sql("ALTER TABLE counter ADD COLUMN later int")
    assert in_child(scene.config(**settings), die_at(*second), drain) == KILLED
    drain(pipeline)
    lasts = {id_: max(n for n in range(EVENTS) if n % 7 == id_ and n % 3 == 2) for id_ in range(1, 7)}
    sums = {id_: sum(n + 1 for n in range(id_, EVENTS, 7)) for id_ in range(7)}
    rows = scene.sql("SELECT id, n, later FROM counter ORDER BY id")
    assert rows == [(id_, sums[id_], lasts.get(id_)) for id_ in range(7)]
    for id_ in range(7):
        partial = {0, *itertools.accumulate(n + 1 for n in range(id_, EVENTS, 7))}
        seen = [int(n) for (n,) in scene.sql("SELECT n FROM seen WHERE id = %s ORDER BY place", id_)]
        assert seen == sorted(set(seen)), "every state of a row is the sum of its first events, and none comes twice"
        assert partial.issuperset(seen)
    assert dead(pipeline) == []
    assert pipeline.status().pending == 0
    assert scene.redis.keys("pipeline.overlay.*") == scene.redis.keys("pipeline.held.*") == []


@pytest.mark.parametrize("step", [Step.WRITING, Step.WRITTEN])
def test_a_write_that_was_killed_can_be_repeated_under_its_event_id(scene: Scene, step: Step) -> None:
    for statement in SCHEMA:
        scene.sql(statement)

    def write(pipeline: Pipeline) -> None:
        pipeline.write("counter", key={"id": 1}, add={"n": 5}, event_id="order-17")

    assert in_child(scene.config(), die_at(step), write) == KILLED
    pipeline = scene.pipeline()
    write(pipeline)
    drain(pipeline)
    assert scene.sql("SELECT n FROM counter") == [(5,)]


@pytest.mark.parametrize("step", [Step.REPLAYING, Step.REPLAYED, Step.MARKED])
def test_a_replay_that_was_killed_can_be_repeated(scene: Scene, step: Step) -> None:
    scene.sql("CREATE TABLE counter (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0 CHECK (n < 10))")
    pipeline = scene.pipeline()
    pipeline.write("counter", key={"id": 1}, add={"n": 50})
    drain(pipeline)
    scene.sql("ALTER TABLE counter DROP CONSTRAINT counter_n_check")
    letters = [letter.id for letter in pipeline.dead_letters.page()]

    def replay(pipeline: Pipeline) -> None:
        list(pipeline.replayer.replay_ids(letters, actor="test"))

    assert in_child(scene.config(), die_at(step), replay) == KILLED
    replay(pipeline)
    drain(pipeline)
    assert scene.sql("SELECT n FROM counter") == [(50,)]
    assert scene.sql("SELECT count(*) FROM pipeline.replay") == [(1,)]
    assert dead(pipeline) == []

"""Broken messages in a shard queue, on real servers: each is applied or a dead letter as it was, and nothing waits."""

from collections import Counter

import pytest

from pipeline import Pipeline
from pipeline.core.codec import Malformed, decode
from pipeline.driving import run
from scripts.fuzzing.__main__ import whole_messages
from scripts.fuzzing.mutants import Mutants
from tests.integration.scene import Scene, dead, drain
from tests.unit.broken_messages import (
    AT_THE_DOOR,
    BODIES,
    CHANGE,
    EIGHT,
    ENVELOPES,
    MEGABYTES_50,
    body,
    kwargs,
    raw,
    stock,
)
from tests.unit.messages import TASK

BROKEN = {**EIGHT, **ENVELOPES, **BODIES}
MUTANTS = 600
SCHEMA = """
CREATE TABLE page_views (page_id integer PRIMARY KEY, views bigint DEFAULT 0, title text, doc jsonb);
CREATE TABLE flights (carrier text, flight integer, at timestamptz, n integer DEFAULT 0, PRIMARY KEY (carrier, flight));
CREATE TABLE carts (user_id integer, sku text, PRIMARY KEY (user_id, sku));
CREATE TABLE orders (id integer PRIMARY KEY, status text);
CREATE TABLE log ("order" integer);
CREATE TABLE audit_log (actor text, action text);
CREATE TABLE "Order" (
    id uuid, "größe" text, "none" text, "bool" boolean, "int" numeric, "float" double precision, "text" text,
    "bytes" bytea, "binary" bytea, moment timestamptz, clock timestamp, "date" date, "time" time, list jsonb,
    dict jsonb, count bigint, amount numeric, spent interval, last_seen timestamptz, first_seen timestamptz,
    PRIMARY KEY (id, "größe")
);
"""


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    for statement in SCHEMA.split(";")[:-1]:
        scene.sql(statement)
    return scene.pipeline(batch_size=200)


def push(scene: Scene, *messages: bytes) -> None:
    """Behind everything that is in the queue of shard 0."""
    for message in messages:
        scene.redis.lpush(scene.keys.events, message)


def good(pipeline: Pipeline, page: int) -> None:
    pipeline.write("page_views", key={"page_id": page}, add={"views": 1})


def pages(scene: Scene) -> dict[int, int]:
    return dict(scene.sql("SELECT page_id, views FROM page_views WHERE page_id >= 1000"))


def test_every_kind_becomes_a_dead_letter_as_it_was_and_its_neighbours_commit(scene: Scene, pipeline: Pipeline) -> None:
    for page, (message, _) in enumerate(BROKEN.values(), 1000):
        push(scene, message)
        good(pipeline, page)
    report = drain(pipeline)
    assert pages(scene) == dict.fromkeys(range(1000, 1000 + len(BROKEN)), 1)
    assert scene.queued() == []
    assert report.dead == len(BROKEN)
    for letter, (kind, (message, reason)) in zip(dead(pipeline), BROKEN.items(), strict=True):
        assert letter.message == message, kind
        assert reason in letter.reason, kind


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (kwargs(table="pg_catalog.pg_class", key={"oid": 1}, add={}), "pg_catalog"),
        (kwargs(table="pipeline.shard", key={"shard": 0}, add={"seq": 1}), "the pipeline itself"),
        (kwargs(key={"page_id": 2**31}), "integer"),
        (kwargs(add={"views": 2**63}), "bigint"),
        (kwargs(key={"page_id": "; DROP TABLE page_views; --"}), "integer"),
        (kwargs(set={"doc": {"__type__": "decimal", "__value__": "1E+999999"}}), ""),
        (body('[[],{"table":"page_views","key":{"page_id":1},"set":{"doc":"\\u0000"}},{}]'), "NUL"),
        (raw(stock(kwargs={"changes": [CHANGE, {**CHANGE, "key": {"page_id": "x"}}]})), "integer"),
    ],
    ids=[
        "a system table",
        "our own table",
        "beyond int4",
        "beyond int8",
        "a key that is text",
        "beyond jsonb",
        "a NUL",
        "one bad change in a group",
    ],
)
def test_an_event_that_postgres_cannot_take_becomes_a_dead_letter_as_it_was(
    scene: Scene, pipeline: Pipeline, message: bytes, reason: str
) -> None:
    push(scene, message)
    good(pipeline, 1000)
    drain(pipeline)
    (letter,) = dead(pipeline)
    assert letter.message == message
    assert reason in letter.reason
    assert pages(scene) == {1000: 1}
    assert scene.sql("SELECT count(*) FROM page_views") == [(1,)]


def test_a_broken_event_that_was_sent_twice_is_one_dead_letter(scene: Scene) -> None:
    pipeline = scene.pipeline(shards=1)
    once, another = (raw(stock(kwargs={"table": "t", "key": {"id": 1}, "set": {"text": text}})) for text in "ab")
    again = once.replace(b'"tag-an-id"', b'"another tag"')
    assert again != once
    for number, message in enumerate((once, again, another)):
        run(pipeline.ingress.bury(message, "a NUL", f"delivery {number}"))
    drain(pipeline)
    assert sorted(letter.message for letter in dead(pipeline)) == sorted([once, another])


def test_hostile_values_are_values(scene: Scene, pipeline: Pipeline) -> None:
    hostile = ["'; DROP TABLE page_views; --", "\\N", "\\.", "a\tb\nc\\", '"', "%s", "{", "\u202e", "😀", "\x01\x7f"]
    for page, text in enumerate(hostile, 1000):
        push(scene, kwargs(key={"page_id": page}, set={"title": text, "doc": {text: [text]}}))
    drain(pipeline)
    assert dead(pipeline) == []
    found = scene.sql("SELECT title, doc FROM page_views ORDER BY page_id")
    assert found == [(text, {text: [text]}) for text in hostile]


def test_of_a_duplicate_key_the_last_counts(scene: Scene, pipeline: Pipeline) -> None:
    push(scene, body('[[],{"table":"page_views","table":"page_views","key":{"page_id":7},"key":{"page_id":1000}},{}]'))
    drain(pipeline)
    assert pages(scene) == {1000: 0}


def test_names_that_look_like_sql_are_names(scene: Scene, pipeline: Pipeline) -> None:
    name = '"; DROP TABLE page_views; --"'
    scene.sql('CREATE TABLE "; DROP TABLE page_views; --" ("a""b;%s" integer PRIMARY KEY, "$1" text)')
    push(scene, kwargs(table=name, key={'a"b;%s': 1}, add={}, set={"$1": "x"}))
    good(pipeline, 1000)
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql('SELECT "a""b;%s", "$1" FROM "; DROP TABLE page_views; --"') == [(1, "x")]
    assert pages(scene) == {1000: 1}


def test_an_event_of_fifty_megabytes_is_an_event_like_another(scene: Scene, pipeline: Pipeline) -> None:
    push(scene, AT_THE_DOOR["fifty megabytes of an event"][0])
    good(pipeline, 1000)
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT length(title) FROM page_views WHERE page_id = 1") == [(MEGABYTES_50,)]
    assert pages(scene) == {1000: 1}


def test_mutants_end_applied_or_as_dead_letters_and_nothing_waits(scene: Scene, pipeline: Pipeline) -> None:
    """Every column that a mutant names exists, so that no table is paused; see `test_paused_tables` for those."""
    columns = {
        table: set(names)
        for table, names in scene.sql(
            "SELECT quote_ident(relname), array_agg(attname::text) FROM pg_attribute JOIN pg_class ON oid = attrelid "
            "WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND relkind = 'r' GROUP BY 1"
        )
    }
    mutants: list[bytes] = []
    source = Mutants(whole_messages(), 20_261_121)
    while len(mutants) < MUTANTS:
        if not _pauses(mutant := source.next(), columns):
            mutants.append(mutant)
    for page, mutant in enumerate(mutants, 1000):
        push(scene, mutant)
        good(pipeline, page)
    report = drain(pipeline)
    assert scene.queued() == []
    assert pipeline.status().pending == 0
    assert pages(scene) == dict.fromkeys(range(1000, 1000 + MUTANTS), 1)
    letters = Counter(letter.message for letter in dead(pipeline))
    pushed = Counter(mutants)
    assert letters <= pushed
    malformed = Counter(mutant for mutant in mutants if isinstance(decode(mutant, TASK), Malformed))
    assert malformed <= letters
    assert report.events == 2 * MUTANTS
    assert MUTANTS / 2 < report.dead < MUTANTS
    assert all(letter.reason for letter in dead(pipeline))


def _pauses(mutant: bytes, columns: dict[str, set[str]]) -> bool:
    """Whether it names a table or a column that does not exist: then the table is paused, and the event waits."""
    found = decode(mutant, TASK)
    if isinstance(found, Malformed):
        return False
    return any(
        change.table not in columns
        or not {*change.key, *change.set, *change.add, *change.max, *change.min, *(change.insert or {})}
        <= columns[change.table]
        for change in found.changes
    )

"""Values: what is written comes back from PostgreSQL as it was, or becomes a dead letter that says why."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest

from pipeline import Change
from pipeline.contrib.embedded import Postgres
from tests.integration.scene import Scene, dead, drain

PLUS_2 = timezone(timedelta(hours=2))
TEXTS = [
    "", " ", "\\", "\\N", "\\.", "\\n", "NULL", "a\tb\nc\rd\\e", '"double" \'single\'', "\b\f\v\x01\x7f", "{1,2}",
    "%s %(x)s", "é e\u0301 \u2028 \ufeff", "😀👨‍👩‍👧", "x" * 10_000,
    "'; DROP TABLE t; --", "(1,2)", "trailing \\", "\\\\N\n\\.\n",
    "null", "],[", "]\n[", "1\n\\.\n2", "\x01\\u0001\x1f",
]  # fmt: skip
MOMENT = datetime(2013, 3, 31, 2, 30, 15, 123456)  # noqa: DTZ001 - a value without a time zone is meant


class Size(Enum):
    SMALL = "small"
    BIG = "very big"


SCHEMA = """
CREATE TYPE size AS ENUM ('small', 'very big');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');
CREATE DOMAIN cents AS numeric(10,2) NOT NULL CHECK (VALUE >= 0);
CREATE DOMAIN tags AS text[];
"""

SAME: list[tuple[str, Sequence[Any]]] = [
    ("smallint", [0, -(2**15), 2**15 - 1]),
    ("integer", [0, -(2**31), 2**31 - 1]),
    ("bigint", [0, -(2**63), 2**63 - 1]),
    ("numeric", [Decimal("0.1"), Decimal("-1.50"), Decimal(10) ** 40, Decimal("1E-30"), Decimal(7)]),
    ("numeric(10,2)", [Decimal("0.00"), Decimal("-99999999.99")]),
    ("real", [0.0, 1.5, -2.25]),
    ("double precision", [0.1, -0.0, 1e308, 5e-324, 1 / 3]),
    ("text", TEXTS),
    ("varchar(5)", ["", "abcde", "😀😀😀😀😀"]),
    ("char(3)", ["abc", "a\\N"]),
    ("bytea", [b"", bytes(range(256)), b"\\x41", b"\\", "é".encode()]),
    ("boolean", [True, False]),
    ("json", [{}, [], {"a": [1, None, {"b": "\\N\n\t\"'é😀"}]}, "text", "7", 7, True, 1.5]),
    ("jsonb", [{}, [], {"a": [1, None, {"b": "\\N\n\t\"'é😀"}]}, "text", "7", 7, False]),
    ("integer[]", [[], [1, None, -3], [[1, 2], [3, 4]], [[[1]], [[2]]]]),
    ("text[]", [TEXTS, ["a", None, "null"], [["a,b", '"'], ["{}", "\\"]]]),
    ("numeric[]", [[Decimal("0.10"), None]]),
    ("double precision[]", [[0.1, 1e308]]),
    ("bytea[]", [[b"\x00\xff\\", b"", None]]),
    ("boolean[]", [[True, None, False]]),
    ("jsonb[]", [[{"a": [1, 2]}, "x", 1, [1, [2]], None]]),
    ("uuid[]", [[UUID(int=7)]]),
    ("date[]", [[date(2013, 1, 1), None]]),
    ("timestamptz[]", [[datetime(2013, 1, 1, 12, tzinfo=UTC)], [[datetime(2013, 1, 1, 12, tzinfo=UTC)]]]),
    ("interval[]", [[timedelta(days=-1, microseconds=1)]]),
    ("timestamptz", [datetime(2013, 1, 1, 12, 0, 0, 1, tzinfo=UTC), datetime(1, 1, 2, tzinfo=UTC)]),
    ("timestamptz", [MOMENT.replace(tzinfo=PLUS_2), MOMENT.replace(tzinfo=timezone(-timedelta(hours=9, minutes=30)))]),
    ("timestamp", [MOMENT, MOMENT.replace(year=1), MOMENT.replace(year=9999)]),
    ("date", [date(2013, 2, 28), date.min, date.max]),
    ("time", [time(0), time(23, 59, 59, 999999)]),
    ("time with time zone", [time(12, 30, tzinfo=PLUS_2), time(1, tzinfo=UTC)]),
    ("interval", [timedelta(0), timedelta(microseconds=1), timedelta(days=-3, seconds=5), timedelta(10**5, 0, -1)]),
    ("uuid", [UUID(int=0), UUID(int=2**128 - 1)]),
    ("email", ["a@b", "\\@\n"]),
    ("cents", [Decimal("0.00"), Decimal("12.34")]),
    ("tags", [["a", 'b"c'], []]),
    ("citext", ["MiXed", "\\N"]),
]  # fmt: skip

AS_TEXT: list[tuple[str, Sequence[tuple[Any, str]]]] = [
    ("numeric", [(7, "7"), (2**100, str(2**100)), (0.1, "0.1"), ("NaN", "NaN"), (1e22, "10000000000000000000000")]),
    ("double precision", [(7, "7"), (-0.0, "-0"), (Decimal("0.1"), "0.1"), ("Infinity", "Infinity"), ("NaN", "NaN")]),
    ("integer", [("7", "7")]),
    ("numeric(10,2)", [(Decimal("1.005"), "1.01")]),
    ("char(5)", [("ab", "ab   ")]),
    ("size", [("small", "small"), (Size.BIG, "very big")]),
    ("size[]", [(["small", "very big", None], '{small,"very big",NULL}')]),
    ("pair", [('(1,"a b")', '(1,"a b")')]),
    ("int4range", [("[1,5]", "[1,6)"), ("empty", "empty")]),
    ("tstzrange", [('["2013-01-01 00:00+00",)', '["2013-01-01 00:00:00+00",)')]),
    ("inet", [("10.0.0.1/8", "10.0.0.1/8"), ("::1", "::1")]),
    ("macaddr", [("08-00-2b-01-02-03", "08:00:2b:01:02:03")]),
    ("point", [("(1,2)", "(1,2)")]),
    ("bit(3)", [("101", "101")]),
    ("bit varying", [("10101", "10101")]),
    ("hstore", [('a=>1,"b c"=>NULL', '"a"=>"1", "b c"=>NULL')]),
    ("tsvector", [("a fat cat", "'a' 'cat' 'fat'")]),
    ("jsonb", [(Decimal("1E+2"), "100"), ({"n": Decimal("0.10")}, '{"n": 0.10}'), (2**70, str(2**70))]),
    ("uuid", [("00000000000000000000000000000007", str(UUID(int=7)))]),
    ("timestamptz", [("2013-01-01T00:00:00+02:00", "2012-12-31 22:00:00+00"), ("infinity", "infinity")]),
    ("interval", [("1 mon 2 days", "1 mon 2 days")]),
    ("integer[]", [("{1,2}", "{1,2}")]),
]  # fmt: skip

UNFIT: list[tuple[str, Any, str]] = [
    ("integer", 1.5, 'invalid input syntax for type integer: "1.5"'),
    ("integer", 1.0, 'invalid input syntax for type integer: "1.0"'),
    ("integer", 2**31, "out of range"),
    ("integer", True, "column v: a bool does not fit the type integer"),
    ("integer", "seven", "invalid input syntax"),
    ("integer", [1], "column v: a list does not fit the type integer"),
    ("boolean", 1, "column v: a int does not fit the type boolean"),
    ("text", 7, "column v: a int does not fit the type text"),
    ("text", b"bytes", "column v: a bytes does not fit the type text"),
    ("text", date(2013, 1, 1), "column v: a date does not fit the type text"),
    ("text", {"a": 1}, "column v: a dict does not fit the type text"),
    ("bytea", "text", "column v: a str does not fit the type bytea"),
    ("varchar(3)", "abcd", "value too long for type character varying(3)"),
    ("size", "huge", "invalid input value for enum"),
    ("email", "nobody", 'value for domain email violates check constraint "email_check"'),
    ("cents", Decimal(-1), "violates check constraint"),
    ("timestamptz", MOMENT, "a datetime with no time zone does not fit the type timestamp with time zone"),
    ("timestamptz[]", [MOMENT], "a datetime with no time zone does not fit"),
    ("timestamp", MOMENT.replace(tzinfo=UTC), "a datetime with a time zone does not fit the type timestamp without"),
    ("timestamp", date(2013, 1, 1), "column v: a date does not fit"),
    ("date", MOMENT, "column v: a datetime does not fit the type date"),
    ("time", time(1, tzinfo=UTC), "a time with a time zone does not fit the type time without time zone"),
    ("time[]", [time(1, tzinfo=UTC)], "a time with a time zone does not fit"),
    ("time with time zone", time(1), "a time with no time zone does not fit the type time with time zone"),
    ("interval", 7, "column v: a int does not fit the type interval"),
    ("uuid", "no uuid", "invalid input syntax for type uuid"),
    ("jsonb", MOMENT, "column v: a datetime does not fit the type jsonb"),
    ("jsonb", {"a": [b"x"]}, "column v: not JSON: a bytes has no JSON form"),
    ("integer[]", [[1], [2, 3]], "malformed array literal"),
    ("integer[]", [1.5], "invalid input syntax for type integer"),
    ("integer[]", [True], "column v: a bool does not fit the type integer"),
    ("int4range", "[5,1]", "range lower bound must be less than or equal to range upper bound"),
    ("integer NOT NULL", None, 'null value in column "v"'),
    ("cents", None, "does not allow null values"),
    ("integer GENERATED ALWAYS AS (id * 2) STORED", 1, "column v: a generated column cannot be written"),
]  # fmt: skip


def create(scene: Scene, kind: str) -> None:
    scene.sql(SCHEMA)
    if kind in {"citext", "hstore"}:
        scene.sql(f"CREATE EXTENSION {kind}")
    scene.sql(f"CREATE TABLE t (id int PRIMARY KEY, v {kind})")
    scene.sql(f"CREATE TABLE log (id int, v {kind})")


def write_everywhere(scene: Scene, kind: str, values: Sequence[Any]) -> None:
    """Into a keyed table (by MERGE) and into another one by inserts (by COPY)."""
    create(scene, kind)
    pipeline = scene.pipeline()
    pipeline.write_many(Change("t", {"id": number}, {"v": value}) for number, value in enumerate(values))
    pipeline.write_many(Change("log", insert={"id": number, "v": value}) for number, value in enumerate(values))
    drain(pipeline)
    assert [letter.reason for letter in dead(pipeline)] == []


@pytest.mark.parametrize(("kind", "values"), SAME, ids=[kind for kind, _ in SAME])
def test_a_value_comes_back_as_it_was(scene: Scene, kind: str, values: Sequence[Any]) -> None:
    write_everywhere(scene, kind, values)
    for table in ("t", "log"):
        assert [row[0] for row in scene.sql(f"SELECT v FROM {table} ORDER BY id")] == list(values)


@pytest.mark.parametrize(("kind", "values"), AS_TEXT, ids=[kind for kind, _ in AS_TEXT])
def test_a_value_is_read_as_the_type_reads_its_text(scene: Scene, kind: str, values: Sequence[tuple[Any, str]]) -> None:
    write_everywhere(scene, kind, [value for value, _ in values])
    for table in ("t", "log"):
        stored = scene.sql(f"SELECT format('%s', v) FROM {table} ORDER BY id")
        assert [row[0] for row in stored] == [text for _, text in values]


@pytest.mark.parametrize("kind", ["integer", "text", "jsonb", "text[]", "timestamptz", "size", "boolean"])
def test_none_is_null(scene: Scene, kind: str) -> None:
    write_everywhere(scene, kind, [None])
    assert scene.sql("SELECT v FROM t UNION ALL SELECT v FROM log") == [(None,), (None,)]


@pytest.mark.parametrize(("kind", "value", "reason"), UNFIT, ids=[f"{value!r}-{kind}" for kind, value, _ in UNFIT])
def test_a_value_that_does_not_fit_is_a_dead_letter_that_says_why(
    scene: Scene, kind: str, value: Any, reason: str
) -> None:
    create(scene, kind)
    scene.sql("CREATE TABLE good (id int PRIMARY KEY)")
    pipeline = scene.pipeline()
    pipeline.write("good", {"id": 1})
    bad = pipeline.write("t", {"id": 2}, set={"v": value})
    pipeline.write("good", {"id": 3})
    drain(pipeline)
    (letter,) = dead(pipeline)
    assert (letter.event_id, letter.table) == (bad.event_id, "t")
    assert reason in letter.reason
    assert scene.sql("SELECT id FROM t") == []
    assert scene.sql("SELECT id FROM good ORDER BY id") == [(1,), (3,)]


KEYS: list[tuple[str, Sequence[Any]]] = [
    ("text", ["a:b", "a&b=c", "100%", "%3A", "é😀", "\\N", "a\tb\nc", '"', "x" * 1000, ""]),
    ("bigint", [0, -(2**63), 2**63 - 1]),
    ("numeric", [Decimal("0.1"), Decimal("1E+2"), Decimal("-7.5")]),
    ("uuid", [UUID(int=1), UUID(int=2)]),
    ("bytea", [b"", b"\x00\xff", b"\\x41"]),
    ("boolean", [True, False]),
    ("date", [date(2013, 1, 1), date(2013, 1, 2)]),
    ("timestamptz", [datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 1, 0, 0, 0, 1, tzinfo=PLUS_2)]),
    ("time", [time(1), time(1, 0, 0, 1)]),
    ("size", [Size.SMALL, "very big"]),
    ("inet", ["10.0.0.1", "::1"]),
]


@pytest.mark.parametrize(("kind", "values"), KEYS, ids=[kind for kind, _ in KEYS])
def test_a_row_is_found_by_its_key_whatever_the_keys_type(scene: Scene, kind: str, values: Sequence[Any]) -> None:
    scene.sql(SCHEMA)
    scene.sql(f"CREATE TABLE t (k {kind} PRIMARY KEY, n int NOT NULL DEFAULT 10)")
    pipeline = scene.pipeline()
    for _ in range(2):
        pipeline.write_many([Change("t", {"k": value}, add={"n": 1}) for value in values])
        drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT n, count(*) FROM t GROUP BY n") == [(12, len(values))]
    pipeline.delete("t", {"k": values[0]})
    drain(pipeline)
    assert scene.sql("SELECT count(*) FROM t") == [(len(values) - 1,)]


def test_spellings_of_one_key_are_one_row(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (k numeric, at timestamptz, PRIMARY KEY (k, at), n int)")
    pipeline = scene.pipeline()
    noon = datetime(2013, 1, 1, 12, tzinfo=UTC)
    for key in (Decimal("1.0"), Decimal("1.00"), 1, "1"):
        for at in (noon, noon.astimezone(PLUS_2)):
            pipeline.write("t", {"at": at, "k": key}, add={"n": 1})
    drain(pipeline)
    assert scene.sql("SELECT n FROM t") == [(8,)]


def test_keys_that_only_postgresql_knows_to_be_equal_are_one_row(scene: Scene) -> None:
    scene.sql("CREATE EXTENSION citext")
    scene.sql("CREATE TABLE t (k citext PRIMARY KEY, n int)")
    pipeline = scene.pipeline()
    pipeline.write_many([Change("t", {"k": key}, add={"n": 1}) for key in ("a", "A", "b", "a")])
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT lower(k), n FROM t ORDER BY 1") == [("a", 3), ("b", 1)]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_text_is_not_garbled_in_a_database_of_another_encoding(scene: Scene, postgres: Postgres, encoding: str) -> None:
    scene.sql(f"CREATE DATABASE {encoding} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
    other = Scene(scene.redis_url, postgres.url_of(encoding.lower()))
    pipeline = other.pipeline()
    pipeline.migrate()
    other.sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
    pipeline.write("t", {"id": 1}, set={"v": "né"})
    drain(pipeline)
    assert dead(pipeline) == []
    codec = "latin1" if encoding == "LATIN1" else "utf8"
    assert other.sql("SELECT encode(v::bytea, 'hex') FROM t") == [("né".encode(codec).hex(),)]
    other.close()
    scene.sql(f"DROP DATABASE {encoding} WITH (FORCE)")


def test_a_backslash_is_one_whatever_a_backslash_means_in_the_databases_literals(scene: Scene) -> None:
    scene.sql("ALTER DATABASE " + scene.database_url.rpartition("/")[2] + " SET standard_conforming_strings = off")
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
    scene.sql("CREATE TABLE log (v text)")
    pipeline = scene.pipeline()
    pipeline.write("t", {"id": 1}, set={"v": 'a\\"b\n'})
    pipeline.insert("log", {"v": 'a\\"b\n'})
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT v FROM t UNION ALL SELECT v FROM log") == [('a\\"b\n',)] * 2

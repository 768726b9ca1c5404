"""What the property tests draw from: values of every kind, changes and events."""

from datetime import timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from pipeline.core.change import Change

_DAY_MINUTES = 24 * 60

texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
names = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=8)
zones = st.integers(1 - _DAY_MINUTES, _DAY_MINUTES - 1).map(lambda minutes: timezone(timedelta(minutes=minutes)))
integers = st.integers(-(2**80), 2**80)
decimals = st.decimals(allow_nan=False, allow_infinity=False)
numbers = integers | st.floats(allow_nan=False, allow_infinity=False) | decimals
# A fold says which of two clock times is meant where a zone's clock goes back; a fixed offset has no such hour.
datetimes = st.datetimes(timezones=st.none() | zones).map(lambda moment: moment.replace(fold=0))
times = st.times(timezones=st.none() | zones).map(lambda clock: clock.replace(fold=0))

scalars = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    texts,
    st.binary(max_size=20),
    datetimes,
    st.dates(),
    times,
    st.timedeltas(),
    st.uuids(),
)


def _no_tag(value: dict[str, Any]) -> bool:
    return value.keys() != {"__type__", "__value__"}


values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4).filter(_no_tag),
    max_leaves=8,
)

key_values = st.one_of(
    st.booleans(),
    integers,
    st.decimals(-(10**20), 10**20),
    texts,
    st.binary(max_size=20),
    datetimes,
    st.dates(),
    times,
    st.uuids(),
)
keys = st.dictionaries(names, key_values, min_size=1, max_size=3)
tables = st.sampled_from(["page_views", "shop.orders", '"Order"', 'shop."a""b"', "größe", '"two words"'])
single_values = scalars.filter(lambda value: value is not None)
increments = numbers | st.timedeltas()


@st.composite
def writes(draw: st.DrawFn) -> Change:
    """A write whose columns appear once each."""
    columns = iter(draw(st.lists(names, min_size=1, max_size=6, unique=True)))
    key = {next(columns): draw(key_values)}
    operands = {"set": values, "add": increments, "max": single_values, "min": single_values}
    parts: dict[str, dict[str, Any]] = {verb: {} for verb in operands}
    for name in columns:
        verb = draw(st.sampled_from(list(operands)))
        parts[verb][name] = draw(operands[verb])
    return Change(draw(tables), key, parts["set"], parts["add"], parts["max"], parts["min"])


changes = st.one_of(
    writes(),
    st.builds(lambda table, key: Change(table, key, delete=True), tables, keys),
    st.builds(lambda table, row: Change(table, insert=row), tables, st.dictionaries(names, values, max_size=4)),
)
event_ids = st.uuids(version=4).map(str) | st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1)

"""Settings: a wrong one names its variable, and none of them shows a secret."""

import io
import pickle
from typing import Any

import pytest
from rich.console import Console

from pipeline.config import Config
from pipeline.core.retry import RetryPolicy
from pipeline.errors import InvalidSetting

SECRET = "tops3cret"


def wrong(**variables: object) -> InvalidSetting:
    with pytest.raises(InvalidSetting) as refusal:
        Config.from_mapping({f"PIPELINE_{name}": value for name, value in variables.items()})
    return refusal.value


def test_texts_of_the_environment_become_numbers_of_their_unit() -> None:
    environment = {
        "PIPELINE_REDIS_URL": "rediss://cache:6380/1",
        "PIPELINE_SHARDS": "4",
        "PIPELINE_FLUSH_INTERVAL": "0.5",
        "PIPELINE_TABLES": 'page_views,shop.orders,"Order"',
        "PIPELINE_RETRY_BASE": "1",
        "PIPELINE_EMBEDDED_ANYTHING": "of another module",
        "HOME": "/root",
    }
    config = Config.from_mapping(environment)
    assert (config.redis_url, config.shards, config.flush_interval_seconds) == ("rediss://cache:6380/1", 4, 0.5)
    assert config.tables == ("page_views", "shop.orders", '"Order"')
    assert config.retry == RetryPolicy(1.0, 30.0, 5)


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Config.from_mapping({"PIPELINE_SHARDS": "", "PIPELINE_NAMESPACE": ""}) == Config()


def test_what_follows_from_other_settings_is_filled_in() -> None:
    config = Config(redis_url="redis://cache/1", batch_size=7)
    assert (config.broker_url, config.flush_threshold) == ("redis://cache/1", 7)
    assert Config(broker_url="amqp://rabbit", flush_threshold=0).flush_threshold == 0


def test_a_framework_gives_its_settings_without_prefix() -> None:
    assert Config.from_mapping({"SHARDS": 4, "TABLES": ["a"]}, prefix="") == Config(shards=4, tables=("a",))


WRONG: list[tuple[str, object, str]] = [
    ("SHARDS", "0", ">= 1"),
    ("SHARDS", "1025", "<= 1024"),
    ("SHARDS", "many", "must be a whole number, not 'many'"),
    ("SHARDS", "1.5", "must be a whole number, not '1.5'"),
    ("SHARDS", None, "must be a whole number"),
    ("FLUSH_INTERVAL", "-1", "> 0"),
    ("FLUSH_INTERVAL", "nan", "> 0"),
    ("FLUSH_INTERVAL", "inf", "<= 315576000"),
    ("FLUSH_INTERVAL", "1 s", "must be a number, not '1 s'"),
    ("FLUSH_THRESHOLD", "-2", ">= -1"),
    ("FLUSH_THRESHOLD", str(2**53 + 1), f"<= {2**53}"),
    ("FLUSH_SLICE", "0", "> 0"),
    ("BATCH_SIZE", "0", ">= 1"),
    ("BATCH_BYTES", "0", ">= 1"),
    ("INGRESS_BATCH", "-1", ">= 0"),
    ("INGRESS_BATCH", str(2**53 + 1), f"<= {2**53}"),
    ("COMMIT_TARGET", "0", "> 0"),
    ("MAX_PENDING", "7", "less than the number of shards (8)"),
    ("MAX_PENDING", str(2**53 + 1), f"<= {2**53}"),
    ("WHEN_FULL", "drop", "must be raise or block, not 'drop'"),
    ("FULL_TIMEOUT", "0", "> 0"),
    ("FULL_TIMEOUT", "100000", "<= 86400"),
    ("MAX_EVENT_BYTES", "256k", "must be a whole number, not '256k'"),
    ("CACHE_TTL", "0", "> 0"),
    ("DEDUPE_WINDOW", "0", "> 0"),
    ("DEDUPE_WINDOW", "29", "29 s is less than 3 times PIPELINE_LEASE (10 s)"),
    ("DURABILITY", "paper", "must be memory or disk or replica, not 'paper'"),
    ("DURABILITY_TIMEOUT", "0", "> 0"),
    ("DURABILITY_TIMEOUT", "100000", "<= 86400"),
    ("LEASE", "0", "> 0"),
    ("REDIS_TIMEOUT", "0", "> 0"),
    ("STATEMENT_TIMEOUT", "0", "> 0"),
    ("LEDGER_RETENTION", "0", "> 0"),
    ("RETRY_BASE", "0", "> 0"),
    ("RETRY_CAP", "0", "> 0"),
    ("RETRY_ATTEMPTS", "0", ">= 1"),
    ("NAMESPACE", "Shop", "must be a small letter and then"),
    ("NAMESPACE", "shop:1", "must be a small letter and then"),
    ("NAMESPACE", "shop\n", "must be a small letter and then"),
    ("TABLES", "orders,Order", "Order: not a table name"),
    ("WRITE_THROUGH_TABLES", "orders,Order", "Order: not a table name"),
    ("WRITE_THROUGH_POLICY", "ignore", "must be raise or route, not 'ignore'"),
    ("REDIS_URL", "http://cache", "must be a URL that begins with redis://"),
    ("DATABASE_URL", 7, "Expected `str`"),
    ("BROKER_URL", 7, "Expected `str`"),
    ("SHARD", "8", "there is no such setting; did you mean PIPELINE_SHARDS? The settings are PIPELINE_REDIS_URL"),
    ("COLOUR", "red", "there is no such setting; settings are PIPELINE_REDIS_URL"),
]


@pytest.mark.parametrize(("variable", "value", "problem"), WRONG)
def test_a_wrong_value_names_its_variable_and_the_problem(variable: str, value: object, problem: str) -> None:
    refusal = wrong(**{variable: value})
    assert refusal.name == f"PIPELINE_{variable}"
    assert problem in refusal.problem


def test_every_setting_has_a_wrong_value_above() -> None:
    variables = {f"{field.removesuffix('_seconds')}".upper() for field in Config.__struct_fields__}
    assert variables == {variable for variable, _, _ in WRONG} - {"SHARD", "COLOUR"}


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({"shards": 0}, "PIPELINE_SHARDS"),
        ({"flush_interval_seconds": float("inf")}, "PIPELINE_FLUSH_INTERVAL"),
        ({"namespace": "Shop"}, "PIPELINE_NAMESPACE"),
        ({"redis_url": f"http://:{SECRET}@cache"}, "PIPELINE_REDIS_URL"),
        ({"max_pending": 3}, "PIPELINE_MAX_PENDING"),
        ({"tables": ("Order",)}, "PIPELINE_TABLES"),
    ],
)
def test_a_config_made_in_code_is_checked_as_well(settings: dict[str, Any], variable: str) -> None:
    with pytest.raises(InvalidSetting) as refusal:
        Config(**settings)
    assert refusal.value.name == variable
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    "settings",
    [{"dedupe_window_seconds": 30}, {"ingress_batch": 0}, {"broker_url": "amqp://rabbit"}, {"lease_seconds": 1}],
)
def test_ids_may_be_forgotten_soon_where_no_dead_worker_can_have_left_what_it_accepted(
    settings: dict[str, Any],
) -> None:
    Config(**{"dedupe_window_seconds": 3, **settings})


@pytest.mark.parametrize("name", ["SHARDS", "MAX_PENDING"])
def test_a_wrong_setting_of_a_framework_is_named_as_it_is_there(name: str) -> None:
    with pytest.raises(InvalidSetting) as refusal:
        Config.from_mapping({name: 0}, prefix="")
    assert refusal.value.name == name


# --- secrets ----------------------------------------------------------------------------------------------------------

URLS = [
    f"redis://:{SECRET}@cache:6379/0",
    f"redis://user:{SECRET}@cache:6379/0",
    f"redis://user:a@{SECRET}@cache:6379/0",
    f"redis://user:a?{SECRET}@cache:6379/0",
    f"redis://user:a/{SECRET}@cache:6379/0",
    f"redis://cache:6379/0?password={SECRET}",
    f"redis://cache:6379/0?password=a@{SECRET}",
    f"unix://user:{SECRET}@/run/redis.sock",
]


@pytest.mark.parametrize("url", URLS)
def test_no_secret_is_in_what_a_config_shows_of_itself(url: str) -> None:
    for config in (
        Config(redis_url=url),
        Config(broker_url=url),
        Config(database_url=url.replace("redis://", "postgresql://")),
        Config(database_url=f"host=db user=app password={SECRET}"),
    ):
        shown = io.StringIO()
        Console(file=shown, width=1000).print(config)
        assert SECRET not in repr(config) + str(config) + f"{config}" + shown.getvalue()
        assert "shards=8" in repr(config)


def test_where_the_servers_are_can_still_be_seen() -> None:
    config = Config(redis_url=f"redis://user:{SECRET}@cache:6379/0?timeout=1", database_url="postgresql://db/shop")
    assert "redis_url='redis://cache:6379/0', database_url='postgresql://db/shop'" in repr(config)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REDIS_URL", f"http://:{SECRET}@cache"),
        ("REDIS_URL", [SECRET]),
        ("DATABASE_URL", [SECRET]),
        ("BROKER_URL", SECRET.encode()),
    ],
)
def test_no_secret_is_in_the_error_about_a_url(variable: str, value: object) -> None:
    assert SECRET not in repr(wrong(**{variable: value}))


def test_a_config_survives_pickle_with_everything_that_it_needs() -> None:
    config = Config(redis_url=URLS[0], tables=("a",))
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - our own bytes

"""The flush that takes the ingress queue in bulk meets broken messages."""

import pytest

from tests.acceptance.broken_ingress import *  # noqa: F403 - its tests, and what they need

pytestmark = pytest.mark.usefixtures("worker", "beat")


@pytest.fixture(scope="module")
def environment(redis_url: str, database_url: str) -> dict[str, str]:
    urls = {"PIPELINE_REDIS_URL": redis_url, "PIPELINE_DATABASE_URL": database_url}
    return {**urls, "PIPELINE_FLUSH_INTERVAL": "0.1", "PIPELINE_RETRY_CAP": "0.5"}

"""The scene of the integration tests: what happens in it is worse."""

from tests.integration.conftest import make_valkey, migrated_template, migrated_url, pipeline_type, scene

__all__ = ["make_valkey", "migrated_template", "migrated_url", "pipeline_type", "scene"]

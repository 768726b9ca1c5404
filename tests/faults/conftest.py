"""The scene of the integration tests: what happens in it is worse."""

from tests.integration.conftest import kind, make_valkey, migrated_template, migrated_url, scene

__all__ = ["kind", "make_valkey", "migrated_template", "migrated_url", "scene"]

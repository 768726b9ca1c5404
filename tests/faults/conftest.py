"""The scene of the integration tests: what happens in it is worse."""

from tests.integration.conftest import migrated_template, migrated_url, scene

__all__ = ["migrated_template", "migrated_url", "scene"]

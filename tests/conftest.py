import pytest

# The suites live in the package; their asserts explain themselves like those of any test.
pytest.register_assert_rewrite("luxx.testing.contracts")

from tests.support.databases import (  # noqa: E402 - after the line above, which must be first
    any_storage,
    open_database,
    postgres,
    postgres_template,
    postgres_url,
    sqlite_template,
    sqlite_url,
)

__all__ = [
    "any_storage",
    "open_database",
    "postgres",
    "postgres_template",
    "postgres_url",
    "sqlite_template",
    "sqlite_url",
]

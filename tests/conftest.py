import pytest

# The suites live in the package; their asserts explain themselves like those of any test.
pytest.register_assert_rewrite("luxx.testing.contracts")

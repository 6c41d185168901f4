"""docs/testing.md: its tests pass, as one file in a project set as the page says."""

import re
from pathlib import Path

import pytest

from luxx.testing import upstream
from luxx.testing.contracts import ChatModelContract

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
pytest_plugins = ["pytester"]


def test_the_tests_that_the_page_shows_pass(pytester: pytest.Pytester) -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- tests/plugin/test_testing_page.py runs this -->\n```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == text.count("```python") > 3
    (settings,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    pytester.makepyprojecttoml(settings)
    pytester.makepyfile(test_page="\n\n".join(blocks))
    done = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", "-W", "error")
    shown = len(re.findall(r"(?m)^(?:async )?def test_", "".join(blocks)))
    suite = sum(name.startswith("test_") for name in dir(ChatModelContract))
    done.assert_outcomes(passed=shown + suite)


def test_the_page_knows_every_word_that_steers_the_provider() -> None:
    told = re.findall(r"`\[\[(\w+(?::[\w{} ]+)*)\]\]`", PAGE.read_text(encoding="utf-8"))
    known = re.findall(r"\[\[(\w+(?::[\w{} ]+)*)\]\]", upstream.__doc__ or "")
    assert told
    assert sorted(told) == sorted(known)

"""docs/adding-a-model.md, docs/adding-a-storage.md: their files pass their tests, in a project of somebody else's."""

import re
from pathlib import Path

import pytest

from luxx.testing.contracts import RemoteChatModelContract, TurnLogContract, UnitOfWorkContract

DOCS = Path(__file__).parents[2] / "docs"
SETTINGS = '[tool.pytest.ini_options]\nasyncio_mode = "auto"\nasyncio_default_fixture_loop_scope = "function"\n'
pytest_plugins = ["pytester"]


def files(page: str) -> dict[str, str]:
    """Give the blocks of code of a page by the names that the page gives to them."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- tests/plugin/test_guides.py runs this -->\n```python\n(.*?)```", text, re.DOTALL)
    names = re.findall(r"[Tt]his is `(\w+)\.py`", text)
    return dict(zip(names, blocks, strict=True))


def size_of(*suites: type) -> int:
    return sum(name.startswith("test_") for suite in suites for name in dir(suite))


def assert_passed(done: pytest.RunResult, *, at_least: int) -> None:
    outcomes = done.parseoutcomes()
    assert outcomes.keys() == {"passed"}
    assert outcomes["passed"] >= at_least


SERVED = """
    import acme_service


    async def test_the_service_starts(monkeypatch, tmp_path):
        for name, value in {"ACME_URL": "http://127.0.0.1:9", "ACME_KEY": "key", "LUXX_DATA_DIR": tmp_path}.items():
            monkeypatch.setenv(name, str(value))
        async with acme_service.app().lifespan():
            pass
"""


def test_the_model_of_the_guide_passes_its_suite_and_serves(pytester: pytest.Pytester) -> None:
    shown = files("adding-a-model.md")
    assert list(shown) == ["acme", "acme_service", "test_acme"]
    pytester.makepyprojecttoml(SETTINGS)
    pytester.makepyfile(**shown, test_served=SERVED)
    done = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", "-W", "error")
    assert_passed(done, at_least=size_of(RemoteChatModelContract) + 2)


def test_the_storage_of_the_guide_passes_its_suites_and_serves(pytester: pytest.Pytester) -> None:
    shown = files("adding-a-storage.md")
    text = (DOCS / "adding-a-storage.md").read_text(encoding="utf-8")
    (last,) = re.findall(r"(?<!this -->\n)```python\n(.*?)```", text, re.DOTALL)
    pytester.makepyprojecttoml(SETTINGS)
    serving = (
        "from luxx.container import Container\nfrom luxx.entrypoints.http.app import create_app\n"
        "from luxx.settings import Settings\nfrom mine import MyStorage\n\n"
        "async def test_the_service_starts(monkeypatch, tmp_path):\n    monkeypatch.chdir(tmp_path)\n"
        + "".join(f"    {line}\n" for line in last.splitlines())
        + "    async with app.lifespan():\n        pass\n"
    )
    pytester.makepyfile(**shown, test_served=serving)
    done = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", "-W", "error")
    assert_passed(done, at_least=size_of(UnitOfWorkContract, TurnLogContract) + 1)

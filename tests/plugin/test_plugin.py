"""The fixtures that Luxx gives to pytest, in runs of projects of others."""

import os
import subprocess
from pathlib import Path

import pytest
from tests.support.environments import environment

pytest_plugins = ["pytester"]

STRICT = """
    [pytest]
    filterwarnings = error
    asyncio_default_fixture_loop_scope = function
"""
AUTO = STRICT + "    asyncio_mode = auto\n"

CHATTING = """
    import asyncio

    import pytest

    from luxx.application import ModelEnd, ModelText
    from luxx.client import Done, Text
    from luxx.testing import spoken

    pytestmark = pytest.mark.asyncio


    async def test_an_answer(luxx_client, luxx_model):
        luxx_model.then(spoken("Hello, Ada."))
        conversation = await luxx_client.create_conversation()
        sent = await luxx_client.send(conversation.id, "Hi")
        assert sent.assistant_message.content == "Hello, Ada."
        assert luxx_model.requests[0].entries[-1].text == "Hi"


    async def test_a_stream_is_read_while_the_model_speaks(luxx_client, luxx_model):
        heard = asyncio.Event()
        luxx_model.then([ModelText("first"), heard, ModelText(" second"), ModelEnd("stop")])
        conversation = await luxx_client.create_conversation()
        told = []
        async for event in luxx_client.stream(conversation.id, "Hi"):
            if isinstance(event, Text):
                told.append(event.delta)
                heard.set()
        assert isinstance(event, Done)
        assert told == ["first", " second"]


    async def test_each_test_has_a_service_of_its_own(luxx_client):
        assert (await luxx_client.conversations()).total == 0
        assert (await luxx_client.me()).username == "tester"


    async def test_what_is_left_open_ends_with_the_test(luxx_client, luxx_model):
        luxx_model.then([ModelText("half"), asyncio.Event()])
        conversation = await luxx_client.create_conversation()
        stream = luxx_client.stream(conversation.id, "Hi")
        async for event in stream:
            if isinstance(event, Text):
                break
"""


@pytest.mark.parametrize("settings", [STRICT, AUTO], ids=["strict", "auto"])
def test_a_foreign_project_talks_to_a_whole_service(pytester: pytest.Pytester, settings: str) -> None:
    pytester.makeini(settings)
    pytester.makepyfile(CHATTING)
    pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider").assert_outcomes(passed=4)


def test_parts_are_swapped_in_the_container(pytester: pytest.Pytester) -> None:
    pytester.makeini(AUTO)
    pytester.makeconftest("""
        import pytest

        from luxx.testing import CountingIds, FixedClock


        @pytest.fixture
        def clock():
            return FixedClock()


        @pytest.fixture
        def luxx_container(luxx_container, clock):
            luxx_container.clock.override(clock)
            luxx_container.new_id.override(CountingIds())
            return luxx_container
    """)
    pytester.makepyfile("""
        import pytest

        from luxx.client import Unauthenticated


        async def test_the_clock_stands_still_until_it_is_moved(luxx_client, clock):
            conversation = await luxx_client.create_conversation()
            assert conversation.created_at == clock.now
            assert conversation.id.startswith("conv_0000")
            clock.advance(30 * 3600)
            with pytest.raises(Unauthenticated) as caught:
                await luxx_client.me()
            assert caught.value.code == "token_expired"
    """)
    pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_the_application_is_for_litestars_own_clients_too(pytester: pytest.Pytester) -> None:
    pytester.makeini(AUTO)
    pytester.makepyfile("""
        from litestar.testing import AsyncTestClient


        async def test_it(luxx_app):
            async with AsyncTestClient(luxx_app) as http:
                assert (await http.get("/health/ready")).status_code == 200
    """)
    pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_a_run_that_uses_no_fixture_of_it_loads_no_more_than_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makeini(STRICT)
    pytester.makepyfile("""
        import sys


        def test_it():
            assert "luxx.testing.plugin" in sys.modules
            loaded = {name for name in sys.modules if name.split(".")[0] in {"luxx", "msgspec", "litestar", "httpx"}}
            assert loaded == {"luxx", "luxx.testing", "luxx.testing.plugin"}
    """)
    # The other plugins of this environment are none of its business.
    others = [part for name in ("schemathesis", "hypothesispytest", "faker") for part in ("-p", f"no:{name}")]
    pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", *others).assert_outcomes(passed=1)


def test_a_suite_that_fails_shows_the_values_as_any_test_does(pytester: pytest.Pytester) -> None:
    pytester.makeini(AUTO)
    pytester.makepyfile("""
        import pytest

        from luxx.testing import ScriptedChatModel
        from luxx.testing.contracts import ChatModelContract


        class TestMine(ChatModelContract):
            @pytest.fixture
            def talking(self):
                return ScriptedChatModel(*[[]] * 3)
    """)
    run = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", "-k", "deltas_are_never_empty")
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["*assert 0 > 1*", "*where 0 = len(*"])


def run_alone(place: Path, *requirements: str, tests: str) -> str:
    """Run tests where nothing but these requirements is installed; gives what pytest said."""
    python = environment(place / "env", *requirements)
    place.joinpath("test_it.py").write_text(tests, encoding="utf-8")
    place.joinpath("pytest.ini").write_text(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
        if "luxx[testing]" in requirements
        else "[pytest]\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [python, "-W", "error", "-m", "pytest", "-q", "-c", place / "pytest.ini", "test_it.py"],
        cwd=place,
        env={"PATH": os.defpath, "HOME": str(place)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_beside_pytest_alone_the_plugin_disturbs_nobody_and_gives_the_model(tmp_path: Path) -> None:
    said = run_alone(
        tmp_path, "luxx", "pytest", tests="def test_it(luxx_model):\n    assert luxx_model.requests == []\n"
    )
    assert "1 passed" in said


def test_a_fixture_that_needs_another_extra_names_it(tmp_path: Path) -> None:
    said = run_alone(tmp_path, "luxx[testing]", tests="def test_it(luxx_app):\n    pass\n")
    assert "pip install 'luxx[server]'" in said

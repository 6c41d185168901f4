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


SWAPPING = """
    import pytest
    from litestar.testing import AsyncTestClient

    from luxx.client import Unauthenticated
    from luxx.testing import CountingIds, FixedClock

    pytestmark = pytest.mark.asyncio


    @pytest.fixture
    def clock():
        return FixedClock()


    @pytest.fixture
    def luxx_container(luxx_container, clock):
        luxx_container.clock.override(clock)
        luxx_container.new_id.override(CountingIds())
        return luxx_container


    async def test_the_clock_stands_still_until_it_is_moved(luxx_client, clock):
        conversation = await luxx_client.create_conversation()
        assert conversation.created_at == clock.now
        assert conversation.id.startswith("conv_0000")
        clock.advance(30 * 3600)
        with pytest.raises(Unauthenticated) as caught:
            await luxx_client.me()
        assert caught.value.code == "token_expired"


    async def test_the_application_is_for_the_frameworks_own_clients_too(luxx_app):
        async with AsyncTestClient(luxx_app) as http:
            assert (await http.get("/health/ready")).status_code == 200
"""


ADDRESSED = """
    import asyncio
    import threading

    import httpx
    import pytest

    from luxx.client import AsyncClient, Client, Text
    from luxx.testing import spoken


    def test_a_program_that_blocks_is_given_an_address_and_a_token(luxx_url, luxx_token, luxx_model):
        luxx_model.then(spoken("Hello, Ada."))
        with Client(luxx_url, token=luxx_token) as client:
            conversation = client.create_conversation()
            told = [event.delta for event in client.stream(conversation.id, "Hi") if isinstance(event, Text)]
        assert "".join(told) == "Hello, Ada."
        assert luxx_model.requests[0].entries[-1].text == "Hi"


    @pytest.mark.asyncio
    async def test_so_is_one_that_does_not(luxx_url, luxx_token):
        async with AsyncClient(luxx_url, token=luxx_token) as client:
            assert (await client.me()).username == "tester"


    def test_an_answer_that_is_left_open_ends_with_the_test(luxx_url, luxx_token, luxx_model):
        from luxx.application import ModelText

        luxx_model.then([ModelText("half"), asyncio.Event()])
        with Client(luxx_url, token=luxx_token) as client:
            conversation = client.create_conversation()
            for event in client.stream(conversation.id, "Hi"):
                if isinstance(event, Text):
                    break


    def test_nothing_of_it_is_left():
        assert [one.name for one in threading.enumerate() if "luxx" in one.name] == []


    def test_both_ways_at_once_are_refused(luxx_client, luxx_url):
        pass
"""


EXHAUSTED = """
    import pytest

    from luxx.testing import spoken

    pytestmark = pytest.mark.asyncio


    async def test_that_fails_by_it(luxx_client, luxx_model):
        conversation = await luxx_client.create_conversation()
        await luxx_client.send(conversation.id, "Who asks?")


    async def test_that_does_not_look(luxx_client, luxx_model):
        luxx_model.then(spoken("one"))
        conversation = await luxx_client.create_conversation()
        await luxx_client.send(conversation.id, "first")
        [event async for event in luxx_client.stream(conversation.id, "Who asks?")]


    async def test_that_expects_it(luxx_client, luxx_model):
        conversation = await luxx_client.create_conversation()
        with pytest.raises(Exception):
            await luxx_client.send(conversation.id, "Who asks?")
        luxx_model.exhausted = None


    async def test_that_fails_for_another_reason(luxx_model):
        assert luxx_model.requests
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run the tests of a project; the plugins of this environment that it has no use for stay away."""
    others = [part for name in ("schemathesis", "hypothesispytest", "faker", "xdist") for part in ("-p", f"no:{name}")]
    return pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", *others, *arguments)


def test_a_foreign_project_talks_to_a_whole_service_and_swaps_its_parts(pytester: pytest.Pytester) -> None:
    pytester.makeini(STRICT)
    pytester.makepyfile(test_chatting=CHATTING, test_swapping=SWAPPING)
    run(pytester).assert_outcomes(passed=6)


def test_a_foreign_project_gives_an_address_and_a_token_to_a_program(pytester: pytest.Pytester) -> None:
    pytester.makeini(STRICT)
    pytester.makepyfile(test_addressed=ADDRESSED)
    done = run(pytester)
    done.assert_outcomes(passed=4, errors=1)
    done.stdout.fnmatch_lines(["*A test takes luxx_url or luxx_client, not both: an application is served once.*"])


def test_a_test_that_asks_for_more_than_the_script_has_fails_with_that(pytester: pytest.Pytester) -> None:
    pytester.makeini(STRICT)
    pytester.makepyfile(EXHAUSTED)
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        [
            "E *ScriptExhausted: The script has 0 round(s), and this is request 1: 'Who asks?'*",
            "E *ScriptExhausted: The script has 1 round(s), and this is request 2: 'Who asks?'*",
            "E *assert []",
        ]
    )


def test_a_run_that_uses_no_fixture_of_it_loads_no_more_than_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makeini(STRICT)
    pytester.makepyfile("""
        import sys


        def test_it():
            assert "luxx.testing.plugin" in sys.modules
            loaded = {name for name in sys.modules if name.split(".")[0] in {"luxx", "msgspec", "litestar", "httpx"}}
            assert loaded == {"luxx", "luxx.testing", "luxx.testing.plugin"}
    """)
    run(pytester).assert_outcomes(passed=1)


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
    failed = run(pytester, "-k", "deltas_are_never_empty")
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["*assert [[]]*"])


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
    assert "install luxx with the extra `server`" in said

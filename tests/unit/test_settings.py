"""Settings: read at once, every fault at once, no secret told."""

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

import luxx
from luxx.settings import PREFIX, BadSettings, Settings, settings_table

SECRET = "s3cret-" * 6
SOURCE = Path(luxx.__file__).parent.parent


def faults(**environ: str) -> tuple[str, ...]:
    with pytest.raises(BadSettings) as bad:
        Settings.from_env({f"{PREFIX}{name.upper()}": text for name, text in environ.items()})
    assert all(fault in str(bad.value) for fault in bad.value.faults)
    return bad.value.faults


def good(**environ: str) -> Settings:
    return Settings.from_env({f"{PREFIX}{name.upper()}": text for name, text in environ.items()})


def test_nothing_needs_to_be_set() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert settings.storage_url == f"sqlite:///{Path('.luxx/luxx.db')}"
    assert (settings.default_model, settings.llm_base_url, settings.on_postgres) == ("glm-5", None, False)
    assert settings.token_hours == timedelta(hours=24)


def test_an_empty_variable_counts_as_absent_and_others_are_none_of_its_business() -> None:
    assert Settings.from_env({"LUXX_TOKEN_HOURS": " ", "PATH": "/bin", "LUXX_TEST_DATABASE_URL": "x"}) == Settings()


def test_every_setting_is_read_from_its_variable() -> None:
    settings = good(
        data_dir="/data",
        database_url="postgresql://u:p@db/luxx/",
        database_pool="20",
        jwt_secret=SECRET,
        token_hours="0.5",
        llm_base_url="https://llm.example/v1/",
        llm_api_key="key",
        llm_thinking="none",
        llm_retries="0",
        default_model="other",
        tool_seconds="1.5",
        disabled_tools="web_search, fetch_page",
        fetch_allow_hosts="intranet 10.0.0.0/8,::1",
        grace_seconds="0",
    )
    assert settings == Settings(
        data_dir=Path("/data"),
        database_url="postgresql://u:p@db/luxx",
        database_pool=20,
        jwt_secret=SECRET,
        token_hours=timedelta(minutes=30),
        llm_base_url="https://llm.example/v1",
        llm_api_key="key",
        llm_thinking="none",
        llm_retries=0,
        default_model="other",
        tool_seconds=1.5,
        disabled_tools=frozenset({"web_search", "fetch_page"}),
        fetch_allow_hosts=frozenset({"intranet", "10.0.0.0/8", "::1"}),
        grace_seconds=0.0,
    )


def test_every_bad_value_is_named_at_once() -> None:
    bad = {
        "database_url": "mysql://db/luxx",
        "database_pool": "0",
        "jwt_secret": "short",
        "token_hours": "forever",
        "llm_base_url": "llm.example/v1",
        "llm_thinking": "hard",
        "llm_idle_seconds": "-1",
        "max_turns": "1e3",
        "max_tool_rounds": "101",
        "fetch_allow_hosts": "10.0.0.1/8",
        "tool_seconds": "nan",
        "tokn_hours": "1",
    }
    found = faults(**bad)
    assert {fault.split()[0] for fault in found} == {f"{PREFIX}{name.upper()}" for name in bad}
    assert len(found) == len(bad)


@pytest.mark.parametrize("name", ["jwt_secret", "llm_api_key", "search_key", "default_model"])
def test_bytes_that_are_no_text_are_told_so(name: str) -> None:
    assert faults(**{name: os.fsdecode(b"\xff" * 32)})[0].startswith(f"{PREFIX}{name.upper()} must be text in UTF-8")


def test_a_misspelt_variable_is_named_with_the_one_that_was_meant() -> None:
    (fault,) = faults(tokn_hours="1")
    assert fault == "LUXX_TOKN_HOURS is no setting; did you mean LUXX_TOKEN_HOURS?"
    for far in ("qqqqqqqq", "nope", "port", "host", "model"):  # the prefix alone makes none of them near
        (fault,) = faults(**{far: "1"})
        assert fault == f"LUXX_{far.upper()} is no setting; see docs/settings.md for those there are"


def test_the_token_that_a_chat_shows_elsewhere_is_no_misspelt_setting() -> None:
    assert Settings.from_env({"LUXX_TOKEN": "eyJ"}) == Settings()
    assert faults(api_key="sk-1") == ("LUXX_API_KEY is no setting; did you mean LUXX_LLM_API_KEY?",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("llm_base_url", "ftp://llm.example"),
        ("llm_base_url", "http://"),
        ("llm_base_url", "http:///v1"),
        ("llm_base_url", "https:llm.example/v1"),
        ("llm_base_url", "http://[::1/v1"),
        ("llm_base_url", "http://llm.example:port/v1"),
        ("llm_base_url", "http://llm.example:99999/v1"),
        ("database_url", "postgresql:"),
        ("database_url", "sqlite://"),
        ("database_url", "sqlite:///"),
        ("database_url", "luxx.db"),
        ("database_pool", "1.5"),
        ("database_pool", "9" * 5000),
        ("token_hours", "0"),
        ("token_hours", "8761"),
        ("tool_seconds", "inf"),
        ("llm_total_seconds", "1e9999"),
        ("fetch_allow_hosts", "good.example 300.0.0.0/8"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_its_name(name: str, value: str) -> None:
    environ = {name: value, "jwt_secret": SECRET}
    (fault,) = faults(**environ)
    assert fault.startswith(f"{PREFIX}{name.upper()} must ")


@pytest.mark.parametrize("secret", [None, "", "   "])
@pytest.mark.parametrize(
    "url", ["postgresql://db/luxx", "postgres://db/luxx", " postgresql://db/luxx", "PostgreSQL://db/luxx"]
)
def test_postgres_needs_a_secret_that_all_processes_share(url: str, secret: str | None) -> None:
    (fault,) = faults(database_url=url, **({} if secret is None else {"jwt_secret": secret}))
    assert fault.startswith("LUXX_JWT_SECRET is required with Postgres")
    assert good(database_url=url, jwt_secret=SECRET).on_postgres


# What Kubernetes gives every container of a namespace in which there is a Service of the name `luxx` …
OF_A_SERVICE = {
    "LUXX_SERVICE_HOST": "10.0.0.1",
    "LUXX_SERVICE_PORT": "8000",
    "LUXX_SERVICE_PORT_HTTP": "8000",
    "LUXX_PORT": "tcp://10.0.0.1:8000",
    "LUXX_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "LUXX_PORT_8000_TCP_PROTO": "tcp",
    "LUXX_PORT_8000_TCP_PORT": "8000",
    "LUXX_PORT_8000_TCP_ADDR": "10.0.0.1",
}


@pytest.mark.parametrize("service", ["LUXX", "LUXX_POSTGRES"])
def test_what_kubernetes_tells_of_its_services_is_no_setting_and_no_fault(service: str) -> None:
    environ = {name.replace("LUXX", service, 1): text for name, text in OF_A_SERVICE.items()}
    assert Settings.from_env(environ) == Settings()


@pytest.mark.parametrize(
    "environ", [{"LUXX_PORT": "9000"}, OF_A_SERVICE | {"LUXX_PORT": "9000"}, {"LUXX_PORT": "tcp://10.0.0.1:8000"}]
)
def test_a_port_that_a_person_has_set_is_told_to_be_no_setting(environ: dict[str, str]) -> None:
    with pytest.raises(BadSettings) as bad:
        Settings.from_env(environ)
    assert [fault.split(";")[0] for fault in bad.value.faults] == ["LUXX_PORT is no setting"]


@pytest.mark.parametrize("hosts", ["a,b", "a:5432,b:5433", "u:p@a:5432,b", "[::1]:5432,b:5433"])
def test_a_postgres_url_may_name_several_hosts(hosts: str) -> None:
    url = f"postgresql://{hosts}/luxx?target_session_attrs=read-write"
    assert good(database_url=url, jwt_secret=SECRET).storage_url == url


@pytest.mark.parametrize("hosts", ["a:x,b:5432", "a,b:99999"])
def test_each_of_several_hosts_must_be_one(hosts: str) -> None:
    (fault,) = faults(database_url=f"postgresql://{hosts}/luxx", jwt_secret=SECRET)
    assert fault.startswith("LUXX_DATABASE_URL must ")


@pytest.mark.parametrize(("engine", "needed"), [("searxng", "search_url"), ("brave", "search_key")])
def test_a_search_engine_needs_what_it_is_reached_by(engine: str, needed: str) -> None:
    (fault,) = faults(search_engine=engine)
    assert fault.startswith(f"LUXX_{needed.upper()} is required with ")
    assert good(search_engine=engine, **{needed: "https://search.example"}).search_engine == engine


@pytest.mark.parametrize(
    "environ",
    [
        {"jwt_secret": "too-s3cret"},
        {"database_url": "mysql://luxx:too-s3cret@db/luxx"},
        {"database_url": "postgresql://luxx:too-s3cret@[db/luxx", "jwt_secret": SECRET},
        {"database_url": "postgresql://luxx:too-s3cret℀@db/luxx", "jwt_secret": SECRET},
        {"database_url": "postgresql://luxx:too-s3cret@db:port/luxx", "jwt_secret": SECRET},
        {"database_url": "too-s3cret", "jwt_secret": "too-s3cret", "llm_api_key": "too-s3cret", "tokn": "x"},
        # What was meant for another variable, or holds more than it should.
        {"llm_base_url": "ftp://luxx:too-s3cret@llm.example"},
        {"llm_base_url": "https://luxx:too-s3cret@llm.example"},
        {"search_url": "https://too-s3cret@search.example"},
        {"llm_base_url": "u:too-s3cret@h"},
        {"max_turns": "postgresql://luxx:too-s3cret@db/luxx"},
        {"llm_thinking": "sk-too-s3cret-too-s3cret-too-s3cret"},
        {"trusted_proxies": "10.0.0.1 sk-too-s3cret-too-s3cret-too-s3cret"},
        {"fetch_allow_hosts": "10.0.0.1 too-s3cret-too-s3cret/too-s3cret"},
    ],
)
def test_no_secret_is_told_in_an_error(environ: dict[str, str]) -> None:
    with pytest.raises(BadSettings) as bad:
        Settings.from_env({f"{PREFIX}{name.upper()}": text for name, text in environ.items()})
    assert "s3cret" not in str(bad.value)
    assert "s3cret" not in repr(bad.value)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"max_turns": "few"}, ", not 'few'"),
        ({"max_turns": "9" * 5000}, ", not '9999…' (5000 characters)"),
        ({"log_level": "\x1b[2Jinfo"}, r", not '\x1b[2Jinfo'"),
        ({"trusted_proxies": "10.0.0.1 balancer.internal.example"}, "; 'bala…' (25 characters) is none"),
        ({"llm_base_url": "llm.example/v1"}, ", not 'llm.example/v1'"),
    ],
)
def test_what_is_quoted_of_a_value_is_short_and_harmless(environ: dict[str, str], told: str) -> None:
    (fault,) = faults(**environ)
    assert told in fault
    assert len(fault) < 250


def test_a_fault_that_quotes_others_stays_one_short_line() -> None:
    (fault,) = BadSettings(["begin \x1b[31m\n" + "x" * 10_000]).faults
    assert fault.startswith(r"begin \x1b[31m\nxxx")
    assert len(fault) <= 510
    assert fault.endswith("…")


def test_a_password_in_the_query_of_the_database_url_is_a_secret_too() -> None:
    settings = good(database_url="postgresql://db/luxx?user=luxx&password=s3%2Bcret", jwt_secret=SECRET)
    assert {"s3%2Bcret", "s3+cret"} <= set(settings.secrets)


def test_no_secret_is_told_in_the_repr() -> None:
    settings = good(
        database_url="postgresql://luxx:s3cret@db/luxx", jwt_secret=SECRET, llm_api_key="s3cret", default_model="shown"
    )
    assert "s3cret" not in repr(settings)
    assert "shown" in repr(settings)


def test_the_table_of_the_documentation_has_a_row_for_every_setting() -> None:
    rows = re.findall(r"^\| `(LUXX_\w+)` \| (.+?) \| (.+) \|$", settings_table(), re.MULTILINE)
    assert [name for name, _, _ in rows] == [f"{PREFIX}{name.upper()}" for name in Settings.__dataclass_fields__]
    shown = {name: default for name, default, _ in rows}
    assert shown["LUXX_TOKEN_HOURS"] == "`24`"
    assert shown["LUXX_JWT_SECRET"] == shown["LUXX_DISABLED_TOOLS"] == "none"


def serve(directory: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
    return subprocess.run(
        [sys.executable, "-m", "luxx.entrypoints.cli", "serve", "--port", "0"],
        cwd=directory,
        env=clean | {"PYTHONPATH": str(SOURCE)} | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_serve_with_bad_settings_prints_every_fault_and_exits_2(tmp_path: Path) -> None:
    """Those of the `.env` file of the directory and those of the environment, which has the last word."""
    (tmp_path / ".env").write_text("LUXX_TOKEN_HOURS=never\nLUXX_MAX_TURNS=few\nOTHER=x\n", encoding="utf-8")
    done = serve(tmp_path, LUXX_MAX_TURNS="7", LUXX_LLM_BASE_URL="nowhere", LUXX_JWT_SECRET="too-s3cret")
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "Bad settings:"
    assert [line.split()[0] for line in lines[1:]] == ["LUXX_JWT_SECRET", "LUXX_TOKEN_HOURS", "LUXX_LLM_BASE_URL"]
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.stderr


def test_an_env_file_that_is_no_text_is_a_bad_setting_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"LUXX_DEFAULT_MODEL=caf\xe9\n")
    done = serve(tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert ".env" in done.stderr

"""How figures stand to the goals, and what the page says of them."""

import math
from pathlib import Path

import pytest
from bench.goals import goals, under_limits
from bench.record import Record, Steal, Surroundings, read, write
from bench.report import page, table
from bench.run import merged


def record(**figures: dict[str, dict[str, list[float]]]) -> Record:
    about = Surroundings(
        date="2026-11-23 12:00 UTC",
        commit="abc",
        machine="a machine",
        cores=2,
        pinned=True,
        memory_mib=2048,
        kernel="6.1",
        disk="ext4, fsync 1 ms",
        python="3.11",
        libraries={"uvloop": "1"},
        nginx="1.22",
    )
    return Record(
        surroundings=about,
        quick=False,
        rows=1000,
        settings={"sqlite": {"LUXX_JWT_SECRET": "very secret", "LUXX_LLM_THINKING": "none"}},
        figures={name.replace("_", " "): found for name, found in figures.items()},
    )


def streamed(luxx: float, nginx: float = 100.0) -> Record:
    return record(
        paced_100={"sqlite": {"tokens_per_cpu_s": [luxx] * 3}, "nginx": {"tokens_per_cpu_s": [nginx] * 3}},
    )


@pytest.mark.parametrize(
    ("luxx", "state"), [(31.0, "aim met"), (30.0, "aim met"), (25.0, "met"), (20.0, "met"), (19.9, "**missed**")]
)
def test_a_goal_that_is_better_when_higher_is_judged_so(luxx: float, state: str) -> None:
    found = {goal.key: goal for goal in goals(streamed(luxx))}
    assert found["stream.sqlite"].state == state
    assert found["stream.postgres"].state == "not measured"


@pytest.mark.parametrize(("seconds", "state"), [(1.0, "aim met"), (1.3, "met"), (2.1, "**missed**")])
def test_a_goal_that_is_better_when_lower_is_judged_so(seconds: float, state: str) -> None:
    found = {goal.key: goal for goal in goals(record(start={"sqlite": {"ready_s": [seconds]}}))}
    assert found["ready.sqlite"].state == state


def test_one_bad_round_does_not_make_a_ratio() -> None:
    one = record(
        append={
            "postgres luxx": {"per_s": [90.0, 91.0, 89.0]},
            "postgres raw": {"per_s": [100.0, 2.0, 100.0]},
        }
    )
    found = {goal.key: goal for goal in goals(one)}
    assert found["append.postgres"].value == pytest.approx(0.9)


def test_what_a_round_did_not_give_is_left_out_and_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = streamed(25)
    one.add("fast 100", "sqlite", {"gap_p99_ms": math.nan, "cpu_us": 3.0})
    write(one, tmp_path / "deep" / "record.json")
    again = read(tmp_path / "deep" / "record.json")
    assert again == one
    assert again.rounds("fast 100", "sqlite", "gap_p99_ms") == ()


def test_no_record_and_one_of_another_form_are_none(tmp_path: Path) -> None:
    assert read(tmp_path / "none.json") is None
    (tmp_path / "old.json").write_text('{"figures": {}}')
    assert read(tmp_path / "old.json") is None


def test_a_scenario_measured_again_takes_the_place_of_its_older_self() -> None:
    old = streamed(10)
    old.add("start", "sqlite", {"ready_s": 1.0})
    old.faults = {"hundred": "it failed", "stalled": "it failed"}
    both = merged(old, streamed(30), ["hundred"])
    assert both.rounds("paced 100", "sqlite", "tokens_per_cpu_s") == [30.0] * 3
    assert both.rounds("start", "sqlite", "ready_s") == [1.0]
    assert both.faults == {"stalled": "it failed"}


def test_a_ratio_under_its_limit_is_named_and_what_was_not_measured_is_not(tmp_path: Path) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text('[limits]\n"stream.sqlite" = 0.2\n"list.postgres" = 0.7\n"growing.sqlite" = 0.9\n')
    assert under_limits(streamed(21), limits) == []
    (line,) = under_limits(streamed(19), limits)
    assert "stream.sqlite" in line
    assert "19%" in line
    worse = record(
        paced_300={"sqlite": {"cpu_us": [95.0]}},
        paced_10={"sqlite": {"cpu_us": [100.0]}},
    )
    assert "growing.sqlite" in under_limits(worse, limits)[0]


def test_a_limit_on_nothing_is_an_error(tmp_path: Path) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text('[limits]\n"no.such" = 1\n')
    with pytest.raises(ValueError, match=r"no\.such"):
        under_limits(streamed(25), limits)


def test_the_limits_that_are_kept_name_ratios_that_are_measured() -> None:
    under_limits(record())


def test_the_page_tells_goals_figures_steal_and_settings_but_no_secret() -> None:
    one = streamed(25)
    one.steals = [Steal(scenario="paced 100", share=0.12, foreign=0.3)]
    one.faults = {"lists": "a stream was not whole"}
    text = page(one)
    assert "| tokens per CPU-second, 100 paced streams, against nginx | sqlite | ≥ 20% | ≥ 30% | 25% | met |" in text
    assert "not measured" in text
    assert "THAT IS MUCH (in: paced 100)" in text
    assert "OTHER PROGRAMS USED UP TO 30%" in text
    assert "**lists failed" in text
    assert "`LUXX_LLM_THINKING` | `none`" in text
    assert "very secret" not in text


def test_where_there_is_no_nginx_the_table_says_so() -> None:
    one = streamed(25)
    one.surroundings.nginx = None
    assert "There is no nginx" in table(one)

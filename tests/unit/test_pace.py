"""When the log commits next."""

import pytest

from luxx.adapters.database.pace import Pace


@pytest.fixture
def pace() -> Pace:
    return Pace(gather=0.001, limit=0.045)


def test_few_turns_wait_for_each_other_a_little(pace: Pace) -> None:
    assert pace.apart(1) == pytest.approx(0.001)
    assert pace.apart(20) == pytest.approx(0.020)


def test_many_wait_no_longer_than_the_limit(pace: Pace) -> None:
    assert pace.apart(1000) == pytest.approx(0.045)


def test_what_commits_take_is_part_of_the_limit(pace: Pace) -> None:
    for _ in range(100):
        pace.took(0.005)
    assert pace.apart(1000) == pytest.approx(0.040, rel=0.01)
    assert pace.apart(20) == pytest.approx(0.020)


def test_a_commit_that_hung_does_not_make_the_next_ones_follow_each_other_at_once(pace: Pace) -> None:
    for _ in range(100):
        pace.took(60.0)
    assert pace.apart(1000) == pytest.approx(0.030, rel=0.01)


def test_one_slow_commit_changes_little(pace: Pace) -> None:
    pace.took(60.0)
    assert pace.apart(1000) > 0.040

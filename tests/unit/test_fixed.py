"""Time and ids as a test decides: `luxx.testing.fixed`."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from luxx.application import Clock, NewId
from luxx.testing import CountingIds, FixedClock


def test_a_fixed_clock_moves_only_by_hand_and_back_too() -> None:
    clock = FixedClock()
    now: Clock = clock
    before = now()
    assert now() == before
    assert clock.advance(90) == before + timedelta(seconds=90) == now()
    clock.advance(timedelta(days=-2))
    assert now() == before + timedelta(days=-2, seconds=90)


def test_a_fixed_clock_takes_any_aware_time_and_tells_it_in_utc() -> None:
    clock = FixedClock(datetime(2026, 3, 1, 8, tzinfo=timezone(timedelta(hours=8))))
    assert (clock(), clock().tzinfo) == (datetime(2026, 3, 1, tzinfo=UTC), UTC)
    clock.now = datetime(2030, 1, 1, tzinfo=UTC)
    assert clock() == clock.now == datetime(2030, 1, 1, tzinfo=UTC)


def test_a_time_without_its_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="tzinfo=UTC"):
        FixedClock(datetime(2026, 1, 1))  # noqa: DTZ001 - that is what is refused


def test_counted_ids_are_known_beforehand_never_the_same_and_sort_as_they_came() -> None:
    ids = CountingIds()
    new_id: NewId = ids
    assert (ids.last, new_id("conv"), new_id("msg"), ids.last) == (0, "conv_000000000001", "msg_000000000002", 2)
    made = [new_id("msg") for _ in range(1_000)]
    assert sorted(made) == made
    assert len(set(made)) == len(made)

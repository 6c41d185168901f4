import threading
import time

import pytest

from luxx.adapters.system import SortableIds, utc_now


def test_the_time_is_aware_and_in_utc() -> None:
    now = utc_now()
    assert now.utcoffset() is not None
    assert now.tzname() == "UTC"


def test_an_id_is_its_prefix_and_26_characters_of_crockfords_alphabet() -> None:
    prefix, _, rest = SortableIds()("conv").partition("_")
    assert prefix == "conv"
    assert len(rest) == 26
    assert set(rest) <= set("0123456789abcdefghjkmnpqrstvwxyz")


def test_ids_rise_strictly_even_within_a_millisecond() -> None:
    new_id = SortableIds()
    ids = [new_id("msg") for _ in range(20_000)]
    assert ids == sorted(set(ids))


def test_ids_rise_when_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    new_id = SortableIds()
    before = new_id("msg")
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    after = [new_id("msg") for _ in range(3)]
    assert [before, *after] == sorted({before, *after})


def test_ids_of_one_process_sort_behind_older_ones_of_another() -> None:
    older = SortableIds()("msg")
    began = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == began:
        pass
    assert SortableIds()("msg") > older


def test_threads_never_get_the_same_id() -> None:
    new_id = SortableIds()
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.extend([new_id("msg") for _ in range(2000)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8000

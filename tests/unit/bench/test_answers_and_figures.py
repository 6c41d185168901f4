"""The arithmetic of the measurements, and what they hold a stream to."""

import json
import math

import pytest
from bench.answers import MARK, Answer, answer_of, fast, paced, wide
from bench.figures import Histogram, ratios, spread
from bench.load import luxx_fault, openai_fault, unchunked
from bench.proc import Machine, foreign, read_machine, read_pss, read_stat, stolen
from bench.upstream import script_of


def test_percentiles_are_within_a_percent_of_the_sorted_values() -> None:
    values = [0.0001 * number**1.7 for number in range(1, 2001)]
    counted = Histogram(values)
    for percent in (1, 50, 90, 99):
        exact = values[math.ceil(len(values) * percent / 100) - 1]
        assert counted.percentile(percent) == pytest.approx(exact, rel=0.011)
    assert counted.percentile(100) == values[-1]


def test_a_rare_long_pause_shows_in_the_percentile_that_it_belongs_to() -> None:
    counted = Histogram([0.02] * 98 + [0.4] * 2)
    assert counted.percentile(98) == pytest.approx(0.02, rel=0.011)
    assert counted.percentile(99) == pytest.approx(0.4, rel=0.011)


def test_no_time_at_all_has_no_percentile() -> None:
    assert math.isnan(Histogram().percentile(50))


def test_a_spread_is_median_lowest_and_highest() -> None:
    found = spread([3.0, 1.0, 2.0, 10.0])
    assert (found.median, found.low, found.high) == (2.5, 1.0, 10.0)
    with pytest.raises(ValueError, match="no round"):
        spread([])


def test_a_ratio_compares_what_ran_in_the_same_round() -> None:
    found = ratios([10.0, 20.0, 90.0], to=[100.0, 100.0, 300.0])
    assert found.rounds == [0.1, 0.2, 0.3]
    assert found.median == 0.2


@pytest.mark.parametrize("answer", [paced(200), paced(30, rate=100), fast(2000), wide(3)])
def test_a_models_name_says_all_of_its_answer(answer: Answer) -> None:
    assert answer_of(answer.model) == answer
    assert answer_of(f"openai/{answer.model}") == answer


@pytest.mark.parametrize("name", ["", "glm-5", "paced-0x5", "fast-0", "paced-50", "fast-99999999", "xfast-10"])
def test_other_names_are_no_model(name: str) -> None:
    assert answer_of(name) is None


@pytest.mark.parametrize("answer", [paced(20), fast(500), wide(4)])
def test_every_token_has_its_mark_once_and_the_rest_of_the_stream_none(answer: Answer) -> None:
    script = script_of(answer.model, answer)
    assert [token.count(MARK) for token in script.tokens] == [1] * answer.tokens
    assert MARK not in script.opening + script.ending
    assert answer.text.count(MARK.decode()) == answer.tokens


def test_a_chunk_is_as_large_as_providers_send() -> None:
    (token, *_) = script_of("paced-50x200", paced(200)).tokens
    assert 230 <= len(token) <= 290


def body_of(answer: Answer) -> bytes:
    script = script_of(answer.model, answer)
    raw = script.opening + b"".join(script.tokens) + script.ending
    return unchunked(raw.partition(b"\r\n\r\n")[2])


def test_the_providers_stream_is_whole() -> None:
    assert openai_fault(body_of(fast(300)), fast(300)) is None
    assert openai_fault(body_of(paced(5)), paced(5)) is None


def lost(events: list[bytes]) -> list[bytes]:
    return [*events[:7], *events[8:]]


def swapped(events: list[bytes]) -> list[bytes]:
    return [*events[:7], events[8], events[7], *events[9:]]


def doubled(events: list[bytes]) -> list[bytes]:
    return [*events[:7], events[7], *events[7:]]


def cut(events: list[bytes]) -> list[bytes]:
    return events[:-1]


@pytest.mark.parametrize("spoil", [lost, swapped, doubled, cut])
def test_a_stream_of_chunks_that_is_not_whole_is_a_fault(spoil: object) -> None:
    assert callable(spoil)
    events = body_of(fast(20)).split(b"\n\n")[:-1]
    spoiled = b"".join(event + b"\n\n" for event in spoil(events))
    assert openai_fault(spoiled, fast(20))


def luxx_events(answer: Answer) -> list[tuple[str, object]]:
    text = [("text", {"delta": answer.token(number)}) for number in range(answer.tokens)]
    return [("start", {"message_id": "msg_1"}), *text, ("done", {"message": {"content": answer.text}})]


def luxx_body(events: list[tuple[str, object]]) -> bytes:
    return "".join(
        f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n" for number, (name, data) in enumerate(events, 1)
    ).encode()


def test_a_stream_of_luxx_is_whole_however_its_deltas_are_merged() -> None:
    answer = fast(10)
    assert luxx_fault(luxx_body(luxx_events(answer)), answer) is None
    merged = [luxx_events(answer)[0], ("text", {"delta": answer.text}), luxx_events(answer)[-1]]
    assert luxx_fault(b": heartbeat\n\n" + luxx_body(merged), answer) is None


def test_a_stream_of_luxx_that_is_not_whole_is_a_fault() -> None:
    answer = fast(10)
    start, *text, done = luxx_events(answer)
    error = ("error", {"code": "model_unavailable"})
    stored_less = ("done", {"message": {"content": answer.text[:-7]}})
    for events in (
        [start, *text[1:], done],
        [start, *text],
        [*text, done],
        [start, *text, error],
        [start, text[1], text[0], *text[2:], done],
        [start, *text, stored_less],
        [start, *text, done, done],
    ):
        assert luxx_fault(luxx_body(events), answer)
    whole = luxx_body([start, *text, done])
    assert luxx_fault(whole.replace(b"id: 5\n", b"id: 6\n"), answer)


def test_chunks_that_do_not_fit_their_sizes_are_no_body() -> None:
    assert unchunked(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n") == b"abcde"
    for broken in (b"3\r\nabcd\r\n0\r\n\r\n", b"3\r\nabc\r\n", b"", b"x\r\n\r\n"):
        with pytest.raises(ValueError, match=r".+"):
            unchunked(broken)


def test_the_stat_of_a_process_with_a_strange_name_is_read() -> None:
    fields = "S 41 42 42 0 -1 4194304 9 0 0 0 150 50 7 3 20 0 1 0 100 1000 10"
    stat = read_stat(f"43 (a) b (c) {fields}")
    assert stat.parent == 41
    assert stat.cpu == pytest.approx(2.1)


def test_the_share_that_the_hypervisor_took_is_of_all_the_time() -> None:
    before = read_machine("cpu  100 0 100 700 50 0 0 50 7 7\ncpu0 1 1 1 1\n")
    assert before == Machine(total=10.0, idle=7.5, steal=0.5)
    after = read_machine("cpu  200 0 200 1300 150 0 0 150 7 7\n")
    assert stolen(before, after) == pytest.approx(0.1)


def test_what_other_programs_used_is_what_nobody_else_accounts_for() -> None:
    before, after = Machine(total=10, idle=8, steal=0.5), Machine(total=30, idle=18, steal=1.5)
    assert foreign(before, after, own=5.0) == pytest.approx(0.2)
    assert foreign(before, after, own=9.1) == 0.0


def test_memory_is_the_proportional_share() -> None:
    assert read_pss("5581 7ffc ---p [rollup]\nRss:  9000 kB\nPss:  8000 kB\nPss_Dirty: 1 kB\n") == 8000
    with pytest.raises(ValueError, match="Pss"):
        read_pss("Rss: 9000 kB\n")

"""Reading `text/event-stream` by the bytes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luxx.adapters.models.sse import EventStreamReader, EventTooLong, ServerEvent


def read(*slices: bytes, limit: int = 1_000) -> list[bytes]:
    reader = EventStreamReader(limit=limit)
    return [event.data for slice_ in slices for event in reader.feed(slice_)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_end_in_lf_crlf_or_cr(end: bytes) -> None:
    assert read(end.join([b"data: one", b"", b"data: two", b"", b""])) == [b"one", b"two"]


def test_a_crlf_cut_in_two_is_one_line_end() -> None:
    assert read(b"data: one\r", b"\ndata: two\r", b"\n\r", b"\n") == [b"one\ntwo"]


def test_data_lines_of_one_event_are_joined_by_line_feeds() -> None:
    assert read(b"data: one\ndata:two\ndata:  three\ndata\n\n") == [b"one\ntwo\n three\n"]


def test_comments_ids_retries_and_unknown_fields_are_read_over() -> None:
    assert read(b": hi\n\nid: 1\nretry: 5\nnonsense\n:data: no\ndata: yes\n\n") == [b"yes"]


def test_a_byte_order_mark_at_the_start_is_no_part_of_the_first_field() -> None:
    assert read(b"\xef", b"\xbb\xbfdata: one\n\n\xef\xbb\xbfdata: two\n\n") == [b"one"]


def test_an_event_without_its_empty_line_is_none() -> None:
    assert read(b"data: one\n\ndata: half\n") == [b"one"]


@pytest.mark.parametrize("rest", [b"data: one\n", b"da", b": hi\r"])
def test_what_is_left_of_a_slice_belongs_to_the_next_one(rest: bytes) -> None:
    """Whole events that begin a slice are cut in one go, but only where nothing is left from before."""
    assert read(rest, b"data: two\n\n") == read(rest + b"data: two\n\n")


def test_a_type_left_of_a_slice_belongs_to_the_next_one() -> None:
    reader = EventStreamReader(limit=100)
    assert not list(reader.feed(b"event: error\n"))
    assert list(reader.feed(b"data: 1\n\n")) == [ServerEvent(b"error", b"1")]


def test_a_byte_order_mark_behind_the_start_is_part_of_a_field() -> None:
    assert read(b"data: one\n\n", b"\xef\xbb\xbfdata: two\n\n") == [b"one"]


def test_the_type_belongs_to_one_event_only() -> None:
    reader = EventStreamReader(limit=100)
    events = list(reader.feed(b"event: error\ndata: 1\n\ndata: 2\n\nevent: lost\n\ndata: 3\n\n"))
    assert events == [ServerEvent(b"error", b"1"), ServerEvent(b"", b"2"), ServerEvent(b"", b"3")]


def test_an_error_in_a_field_of_its_own_is_an_event_of_that_type() -> None:
    reader = EventStreamReader(limit=100)
    assert list(reader.feed(b"error: 1\n\ndata: 2\n\n")) == [ServerEvent(b"error", b"1"), ServerEvent(b"", b"2")]


def test_characters_cut_in_two_come_whole() -> None:
    whole = "data: 你好😀\n\n".encode()
    assert read(*(whole[place : place + 1] for place in range(len(whole)))) == ["你好😀".encode()]


def test_a_line_without_an_end_is_refused_once_it_is_longer_than_the_limit() -> None:
    reader = EventStreamReader(limit=100)
    assert list(reader.feed(b"data: fine\n\n" + b"x" * 100)) == [ServerEvent(b"", b"fine")]
    with pytest.raises(EventTooLong, match="100 bytes"):
        list(reader.feed(b"x"))


def test_an_event_without_an_end_is_refused_although_its_lines_are_short() -> None:
    with pytest.raises(EventTooLong):
        read(*[b"data: 0123456789\n"] * 20, limit=100)


def test_what_came_whole_before_a_line_that_is_too_long_comes_with_the_refusal() -> None:
    with pytest.raises(EventTooLong) as caught:
        EventStreamReader(limit=100).feed(b"data: one\n\n: hi\n\ndata: two\n\n" + b"x" * 101)
    assert caught.value.events == [ServerEvent(b"", b"one"), ServerEvent(b"", b"two")]


@given(
    pieces=st.lists(
        st.sampled_from(
            [b"data: ", b"data:", b"data: x\n\n", b"x", b":c", b"\n", b"\r", b"\r\n", b"\xef\xbb\xbf", "é".encode()]
        )
    ),
    cuts=st.lists(st.integers(0, 80)),
)
def test_any_slicing_gives_the_same_events(pieces: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pieces)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    slices = [stream[start:end] for start, end in itertools.pairwise(places)]
    assert read(*slices) == read(stream)

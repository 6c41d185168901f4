"""What is pinned, how the neighbours are set up, and what the goals beside them are read from."""

import json
from pathlib import Path

import pytest
from bench.answers import fast
from bench.goals import peer_goals
from bench.load import Address, Faulty
from bench.neighbours import NotInstalled, Pages, Peer, WithKey, installed, litellm_configuration, pins
from bench.peers import PEERS
from bench.proc import share_out
from bench.record import Record, surroundings
from bench.report import page


def test_every_neighbour_is_pinned_to_a_version() -> None:
    found = pins()
    assert set(found) == set(PEERS)
    assert all("==" in one for peer in found.values() for one in peer.requirements)


def test_what_cannot_be_installed_is_said_with_the_command_that_failed(tmp_path: Path) -> None:
    with pytest.raises(NotInstalled, match="pip install"):
        installed("nobody", Peer(requirements=["not a requirement"]), environments=tmp_path)


def test_litellm_is_shown_each_model_of_the_provider_under_its_own_name() -> None:
    written = json.loads(litellm_configuration(["fast-10", "paced-50x200"], Address(port=9)))
    assert [one["model_name"] for one in written["model_list"]] == ["fast-10", "paced-50x200"]
    assert {one["litellm_params"]["api_base"] for one in written["model_list"]} == {"http://127.0.0.1:9/v1"}


async def test_keys_are_used_in_turn_and_streams_begin_evenly() -> None:
    served = WithKey(name="one", address=Address(port=9), processes=[], settings={}, keys=["a", "b"])
    jobs = await served.jobs(fast(10), 4, over=2.0)
    assert [b"Bearer a" in job.request for job in jobs] == [True, False, True, False]
    assert [job.delay for job in jobs] == [0.0, 0.5, 1.0, 1.5]


async def test_an_answer_that_open_webui_did_not_store_is_a_fault() -> None:
    served = Pages(name="pages", address=Address(port=9), processes=[], settings={}, tokens=["a", "b"])
    await served.jobs(fast(10), 2)
    served.chats.append(("a", "chat"))
    with pytest.raises(Faulty, match="1 chats for 2 messages"):
        await served.check_stored(fast(10), 2)


async def test_nobody_has_two_pages() -> None:
    served = Pages(name="pages", address=Address(port=9), processes=[], settings={}, tokens=["a", "b"])
    assert len(await served.jobs(fast(10), 2)) == 2
    with pytest.raises(ValueError, match="as many users"):
        await served.jobs(fast(10), 3)


def test_the_goals_compare_round_by_round_and_leave_out_what_was_not_measured(tmp_path: Path) -> None:
    record = Record(surroundings=surroundings(share_out(), root=tmp_path, place=tmp_path), quick=True, rows=0)
    for ours, theirs in ((20_000.0, 2_000.0), (30_000.0, 2_000.0), (10_000.0, 500.0)):
        record.add("paced 100", "sqlite", {"tokens_per_cpu_s": ours})
        record.add("paced 100", "litellm", {"tokens_per_cpu_s": theirs})
    record.add("first token", "postgres", {"first_p50_ms": 1.0})
    record.add("first token", "open-webui", {"first_p50_ms": 10.0})
    found = {goal.key: goal for goal in peer_goals(record)}
    assert found["peers.stream.litellm.sqlite"].value == 15
    assert found["peers.stream.litellm.sqlite"].state == "aim met"
    assert found["peers.first.open-webui.postgres"].value == pytest.approx(0.1)
    assert found["peers.stream.open-webui-stored.sqlite"].state == "not measured"


def test_the_page_says_of_each_neighbour_what_it_is_and_what_could_not_be_measured(tmp_path: Path) -> None:
    around = surroundings(share_out(), root=tmp_path, place=tmp_path)
    record = Record(surroundings=around, quick=True, rows=0)
    record.add("paced 100", "open-webui", {"cpu_us": 123.0})
    record.settings["open-webui"] = {"version": "open-webui==0.12.4", "OFFLINE_MODE": "true"}
    record.faults["litellm"] = "it would not start:\nno | key"
    written = page(Record(surroundings=around, quick=True, rows=0), record)
    beside = written[written.index("## Beside other services") :]
    assert "open-webui==0.12.4" in beside
    assert "`OFFLINE_MODE=true`" in beside
    assert "**litellm was not measured:** it would not start:" in beside

"""The measurements against the real service: short, for their sense and not for their figures."""

import asyncio
import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from bench.answers import fast, paced
from bench.load import LUXX, Address, Faulty, Job, luxx_request, one_by_one, wave
from bench.proc import Cores, cpu_of, pss_of, tree
from bench.processes import Direct, Luxx, Process, bare_beside, luxx, upstream

from luxx.testing.postgres import ThrowawayPostgres

CORES = Cores(measured=frozenset(), others=frozenset())


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, Address]]:
    with upstream(tmp_path_factory.mktemp("provider"), CORES) as found:
        yield found


@pytest.fixture(scope="module")
def service(provider: tuple[Process, Address], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luxx]:
    with luxx("sqlite", place=tmp_path_factory.mktemp("service"), cores=CORES, upstream=provider[1]) as found:
        yield found


async def test_every_stream_of_the_service_is_whole_and_its_cpu_is_accounted(service: Luxx) -> None:
    before = service.cpu()
    found = await wave(await service.jobs(paced(20, rate=200), 5, over=0.05), within=30)
    assert (found.streams, found.tokens, found.first.count) == (5, 100, 5)
    assert 0 < found.first.percentile(50) < found.wall
    assert service.cpu() > before
    assert service.processes[0].pid in tree(os.getpid())
    assert pss_of(service.processes[0].pid) > 20 * 1024


async def test_paced_tokens_come_at_their_pace(provider: tuple[Process, Address]) -> None:
    direct = Direct(name="direct", address=provider[1], processes=[provider[0]], settings={})
    found = await wave(await direct.jobs(paced(20, rate=100), 3), within=30)
    assert found.gaps.count == 3 * 19
    assert found.wall == pytest.approx(0.2, abs=0.08)


async def test_the_provider_is_idle_between_its_ticks(provider: tuple[Process, Address]) -> None:
    direct = Direct(name="direct", address=provider[1], processes=[provider[0]], settings={})
    before = cpu_of([provider[0].pid])
    found = await wave(await direct.jobs(paced(50, rate=50), 1), within=30)
    assert cpu_of([provider[0].pid]) - before < found.wall / 2


async def test_a_fast_answer_is_whole_too(service: Luxx) -> None:
    times = await one_by_one(await service.jobs(fast(500), 2))
    assert times.count == 2


_STORED = (
    "SELECT m.status, m.parts, t.running, t.last_seq, (SELECT count(*) FROM turn_events e WHERE e.message_id = m.id)"
    " FROM messages m JOIN turns t ON t.message_id = m.id"
)


async def test_a_stream_of_the_bare_handlers_is_whole_and_stored(
    provider: tuple[Process, Address], tmp_path: Path
) -> None:
    with (
        luxx("one", place=tmp_path, cores=CORES, upstream=provider[1]) as service,
        bare_beside(service, place=tmp_path, cores=CORES, upstream=provider[1]) as served,
    ):
        (job,) = await served.jobs(fast(500), 1)
        assert job.address == served.address
        assert (await wave([job], within=30)).tokens == 500
    with contextlib.closing(sqlite3.connect(tmp_path / "one" / "luxx.db")) as file:
        ((status, parts, running, last_seq, events),) = file.execute(_STORED).fetchall()
    assert (status, bool(running), last_seq) == ("complete", False, events)
    assert json.loads(parts) == [{"type": "text", "text": fast(500).text}]


async def test_a_stream_of_the_bare_handlers_is_stored_on_postgres(
    provider: tuple[Process, Address], tmp_path: Path, postgres: ThrowawayPostgres
) -> None:
    url = postgres.url(postgres.create_database())
    with (
        luxx("one", place=tmp_path, cores=CORES, upstream=provider[1], database=url) as service,
        bare_beside(service, place=tmp_path, cores=CORES, upstream=provider[1]) as served,
    ):
        assert (await one_by_one(await served.jobs(fast(500), 2))).count == 2
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(_STORED)
    await connection.close()
    assert len(rows) == 2
    for status, parts, running, last_seq, events in rows:
        assert (status, running, last_seq) == ("complete", False, events)
        assert json.loads(parts) == [{"type": "text", "text": fast(500).text}]


async def test_a_refused_stream_makes_a_run_a_failure(service: Luxx) -> None:
    (job,) = await service.jobs(fast(10), 1)
    refused = Job(
        address=job.address, request=luxx_request("conv_none", service.accounts[0].token), answer=fast(10), format=LUXX
    )
    with pytest.raises(Faulty, match="404"):
        await wave([job, refused], within=30)


async def test_another_answer_than_was_expected_makes_a_run_a_failure(service: Luxx) -> None:
    (job,) = await service.jobs(fast(10), 1)
    other = Job(address=job.address, request=job.request, answer=fast(11), format=LUXX)
    with pytest.raises(Faulty, match="not what the model said"):
        await wave([other], within=30)


async def test_a_stream_without_an_end_makes_a_run_a_failure() -> None:
    left = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(10)
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
            while await reader.read(1000):
                pass
        writer.close()
        left.set()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    direct = Direct(name="x", address=Address(port=server.sockets[0].getsockname()[1]), processes=[], settings={})
    async with server:
        with pytest.raises(Faulty, match="no end"):
            await wave(await direct.jobs(fast(10), 1), within=0.2)
        await asyncio.wait_for(left.wait(), 10)  # it lets go of what never ends

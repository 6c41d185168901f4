"""How the service is to stand beside other services, and how the figures of a record of `bench.peers` say it does."""

from collections.abc import Iterator, Sequence
from typing import Final

from bench.goals import STORAGES, Goal
from bench.record import Record

LITELLM: Final = "LiteLLM"
OPEN_WEBUI_API: Final = "Open WebUI, API"
OPEN_WEBUI_STORED: Final = "Open WebUI, stored"


def peer_goals(record: Record) -> Sequence[Goal]:
    """Give the goals that another service is needed for; ratios of the same round."""
    return [*_cheaper(record), *_sooner(record), *_faster(record)]


def _ratio(record: Record, scenario: str, name: str, ours: str, theirs: str) -> float | None:
    found = record.ratio((scenario, ours, name), (scenario, theirs, name))
    return None if found is None else found.median


def _cheaper(record: Record) -> Iterator[Goal]:
    for peer, must, aim in ((LITELLM, 8, 12), (OPEN_WEBUI_API, 1.5, 2.5), (OPEN_WEBUI_STORED, 8, 12)):
        for storage in STORAGES:
            yield Goal(
                key=f"beside.cpu.{peer}.{storage}",
                text=f"tokens per CPU-second, 100 paced streams, against {peer}",
                config=storage,
                value=_ratio(record, "paced 100", "tokens_per_cpu_s", storage, peer),
                must=must,
                aim=aim,
                unit="×",
                more=True,
                ratio=True,
            )


def _sooner(record: Record) -> Iterator[Goal]:
    for peer in (LITELLM, OPEN_WEBUI_API, OPEN_WEBUI_STORED):
        for storage in STORAGES:
            yield Goal(
                key=f"beside.first.{peer}.{storage}",
                text=f"first token, one stream, against {peer}",
                config=storage,
                value=_ratio(record, "first token", "first_p50_ms", storage, peer),
                must=1 / 5,
                aim=1 / 8,
                unit="×",
                ratio=True,
            )


def _faster(record: Record) -> Iterator[Goal]:
    for peer, must, aim in ((LITELLM, 15, 30), (OPEN_WEBUI_API, 3, 6)):
        for storage in STORAGES:
            yield Goal(
                key=f"beside.fast.{peer}.{storage}",
                text=f"fast provider, 100 streams, tokens a second, against {peer}",
                config=storage,
                value=_ratio(record, "fast 100", "tokens_per_s", storage, peer),
                must=must,
                aim=aim,
                unit="×",
                more=True,
                ratio=True,
            )

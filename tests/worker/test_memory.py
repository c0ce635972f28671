"""A worker sets up as many slots as its memory holds, or says why it cannot."""

from pathlib import Path

import pytest
import torch

from speculation.errors import ConfigurationError
from tests.worker.grpc_session import save_tiny_model, worker_and_channel
from tests.worker.tiny_worker import run
from worker import memory
from worker.memory import DEFAULT_SLOTS, GIBIBYTE, affordable_slots, free_bytes


@pytest.mark.parametrize(
    ("slots", "cache_gib", "set_up"),
    [(None, None, DEFAULT_SLOTS), (3, None, 3), (None, 7.9, 7), (None, 1.0, 1), (3, 3.0, 3)],
)
def test_there_are_as_many_slots_as_were_asked_for_or_as_fit(
    slots: int | None, cache_gib: float | None, set_up: int
) -> None:
    assert affordable_slots(slots, cache_gib, slot_bytes=GIBIBYTE, free=100 * GIBIBYTE) == set_up


@pytest.mark.parametrize(
    ("slots", "cache_gib", "field"),
    [
        pytest.param(None, 0.5, "cache_gib", id="not one slot fits into the bound"),
        pytest.param(4, 3.0, "cache_gib", id="more slots than the bound allows"),
        pytest.param(11, None, "slots", id="more slots than the machine has memory for"),
        pytest.param(None, 12.0, "cache_gib", id="a bound beyond the machine"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_name_of_the_setting(
    slots: int | None, cache_gib: float | None, field: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        affordable_slots(slots, cache_gib, slot_bytes=GIBIBYTE, free=10 * GIBIBYTE)

    assert str(refused.value).startswith(f"{field}: ")
    assert "lower max_length" in str(refused.value)


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = free_bytes(torch.device("cpu"))
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "CONTAINER_LIMIT", limit)

    limit.write_text("1000\n")
    assert free_bytes(torch.device("cpu")) == 1000
    limit.write_text("max\n")
    assert free_bytes(torch.device("cpu")) > unlimited / 2


def test_a_worker_has_the_slots_that_its_memory_holds(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path)

    async def slots(**settings: object) -> int:
        async with worker_and_channel("verify", folder, slots=None, **settings) as (ready, _):
            assert ready.host.cache_use.bytes <= 0.002 * GIBIBYTE
            return ready.host.engine.slots

    assert run(slots(cache_gib=0.002)) > 1
    with pytest.raises(ConfigurationError):
        run(slots(cache_gib=1e-6))

"""One cause planted at a time in a fleet of real processes: `forerun diagnose` names it first, and is quiet without."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from forerun.client import AsyncClient, RouterClient, WorkerHealth
from forerun.workload import tasks
from tests.end_to_end.processes import Process, eventually, redis_server, worker, worker_of
from tests.proxy import delaying_proxy
from zoo.catalog import model_folder, resolve
from zoo.inflation import write_inflated
from zoo.profiles import PROFILES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETS = ("code", "docs")
PROMPTS, TOKENS = 4, 48
SLOTS = 6
LINK_S = 0.06
CHAIN_OF_4 = {"depth": 4, "branching": 1, "budget": 4}


@dataclass(frozen=True)
class Plant:
    """A cause, and how it comes into the fleet.

    Attributes:
        cause: As a finding calls it; empty: none.
        drafters: Who is there; the first one drafts unless the policy chooses.
        policy: Who decides.
        shape: Which tree.
        streams: Requests at once.
        far: Workers that are reached through the delaying proxy.
        controllers: Who share the workers; each lets in as many requests as the target has slots.
    """

    cause: str
    drafters: tuple[str, ...] = ("mixed",)
    policy: str = "static"
    shape: Mapping[str, int] | None = None
    streams: int = 1
    far: tuple[str, ...] = ()
    controllers: int = 1


PLANTS = {
    "a healthy fleet": Plant(""),
    "a healthy fleet whose planner passes over a useless drafter": Plant(
        "", drafters=("mixed", "mismatched"), policy="planner"
    ),
    "a delayed drafter": Plant("slow drafter", drafters=("delayed",)),
    "a mismatched drafter": Plant("mismatched drafter", drafters=("mismatched",)),
    "a verifier at its limit": Plant("saturated verifier", streams=SLOTS),
    "more sessions than the target has room for": Plant("cold cache", streams=SLOTS + 4, controllers=2),
    "a slow link to the target": Plant("far target", far=("target",)),
    "a slow link to the drafter": Plant("far drafter", far=("mixed",)),
    "an over-deep pinned tree": Plant("overgrown tree", shape={"depth": 24, "branching": 4, "budget": 96}),
}


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Process]]:
    """The processes that all fleets share; each is a model with real weights."""
    started = {
        "target": worker_of("verify", resolve("zoo:target@deep"), name="target", slots=SLOTS),
        "mixed": worker("draft", "mixed"),
        "delayed": worker_of("draft", delayed(tmp_path_factory.mktemp("delayed") / "model"), name="delayed"),
        "mismatched": worker_of("draft", stranger(tmp_path_factory.mktemp("stranger")), name="mismatched"),
    }
    try:
        for process in started.values():
            process.await_ready()
        yield started
    finally:
        for process in started.values():
            process.end()


def delayed(folder: Path) -> Path:
    """The drafter `mixed` with idle layers, until its forward costs about as much as the target's.

    A lone drafter is called slow from half of that on: with as many layers as the target, which is wider, it was
    neither clearly slow nor clearly quick. What it drafts ahead while the target judges is now never there in time.
    """
    deep = PROFILES["deep"]
    write_inflated(folder, model_folder("mixed"), "delayed", replace(deep, layers=2 * deep.layers))
    return folder


def stranger(folder: Path) -> Path:
    """The drafter `mixed` with its vocabulary in another order: to this target a model of another family."""
    shutil.copytree(model_folder("mixed"), folder, dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    order = torch.randperm(max(len(weight) for weight in weights.values()), generator=torch.Generator().manual_seed(1))
    mixed_up = {
        name: weight[order].contiguous() if len(weight) == len(order) else weight for name, weight in weights.items()
    }
    save_file(mixed_up, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@contextmanager
def controllers(workers: Mapping[str, Process], plant: Plant, folder: Path) -> Iterator[list[str]]:
    """The addresses of controllers over target and drafter of a plant, with one log; far ones are behind a proxy."""
    with ExitStack() as stack:
        addresses = {name: workers[name].address for name in ("target", *plant.drafters)}
        for name in plant.far:
            addresses[name] = stack.enter_context(delaying_proxy(addresses[name], one_way_s=LINK_S / 2))
        redis = stack.enter_context(redis_server(folder))
        file = folder / "controller.yaml"
        file.write_text(yaml.safe_dump(configuration(addresses, plant, redis.url)))
        started = [Process("controller", ("controller", "--config", str(file))) for _ in range(plant.controllers)]
        for process in started:
            stack.callback(process.end)
        for process in started:
            process.await_ready()
            eventually(lambda there=process.address: all_serve(there, addresses.values()), within_s=60)
        yield [process.address for process in started]


def configuration(addresses: Mapping[str, str], plant: Plant, redis_url: str) -> dict[str, Any]:
    """A controller's file."""
    return {
        "listen": "127.0.0.1:0",
        "tokenizer": str(model_folder("target")),
        "workers": [
            {"role": "verify" if name == "target" else "draft", "address": address}
            for name, address in addresses.items()
        ],
        "redis": {"url": redis_url, "namespace": "planted"},
        "router": {"policy": plant.policy, "drafter": plant.drafters[0], "shape": dict(plant.shape or CHAIN_OF_4)},
        "timeouts": {"draft_timeout_s": 5.0},
    }


def all_serve(address: str, workers: Iterable[str]) -> bool:
    """Whether a controller has admitted all these workers."""
    with RouterClient(address) as router:
        serving = {worker.address for worker in router.show().workers if worker.health is WorkerHealth.SERVING}
    return set(workers) <= serving


async def send(addresses: Sequence[str], *, streams: int) -> None:
    """Requests of every set, so many at once and as many to each, and at least two for each stream."""
    work = tasks(SETS, max(PROMPTS, streams))
    numbers = iter(range(len(work)))

    async def stream(client: AsyncClient) -> None:
        for number in numbers:
            task, temperature = work[number], float(number // len(SETS) % 2)
            await client.generate(
                task.prompt, task=task.prompt_set, max_new_tokens=TOKENS, temperature=temperature, seed=number
            )

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        clients = [await stack.enter_async_context(AsyncClient(address, timeout_s=600)) for address in addresses]
        for number in range(streams):
            group.create_task(stream(clients[number % len(clients)]))


def diagnosed(address: str) -> tuple[int, dict[str, Any]]:
    """Exit status and words of `forerun diagnose`."""
    command = (sys.executable, "-m", "forerun", "diagnose", "--target", address)
    done = subprocess.run((*command, "--json"), capture_output=True, text=True, timeout=120, check=False)
    for_people = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    print(for_people.stdout)
    assert done.stdout, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, said


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_the_planted_cause_is_named_first(workers: Mapping[str, Process], plant: Plant, tmp_path: Path) -> None:
    with controllers(workers, plant, tmp_path) as addresses:
        asyncio.run(send(addresses, streams=plant.streams))
        eventually(lambda: RouterClient(addresses[0]).show().log.connected, within_s=10)
        status, said = diagnosed(addresses[0])

    assert said["verdict"] == ("held back" if plant.cause else "healthy"), said
    assert [finding["cause"] for finding in said["findings"]][:1] == [plant.cause] * bool(plant.cause), said
    assert status == (3 if plant.cause else 0)

"""A real fleet with a page before it, and a real browser to look at it with."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from controller.event_log import redis_client
from controller.model_store import History, ModelStore, Origin
from controller.tokens import Role, new_token
from forerun.client import Client, Generation
from forerun.models import model_folder
from router_models.catalogue import all_policies
from router_models.model_state import ModelState
from router_models.policy import LearningPolicy
from tests.controller.shared import FULL
from tests.end_to_end.processes import Fleet, Process, fleet, redis_server, worker, worker_of
from tests.page.chromium import Chromium

OPEN_TENANT, CLOSED_TENANT = "open", "closed"
"""The log may hold the texts of one of them."""


@dataclass(frozen=True)
class Seen:
    """A fleet whose page can be looked at.

    Attributes:
        fleet: Its processes.
        address: Of the page.
        file: Of its controller's configuration.
        redis: Where its versions are.
        operator: A token that may operate it.
        caller: One that may not.
        open_caller: One that may not either, of the tenant whose texts may be logged.
    """

    fleet: Fleet
    address: str
    file: Path
    redis: str
    operator: str
    caller: str
    open_caller: str

    def answer(self, token: str = "", *, prompt: str = "def area(radius):", **options: Any) -> Generation:
        """An answer of the fleet; of the tenant whose texts nobody may keep, unless the token says otherwise."""
        asked: dict[str, Any] = {"max_new_tokens": 24, "policy": "static", "task": "code", **options}
        with Client(self.fleet.address, token=token or self.caller, timeout_s=60) as client:
            return client.generate(prompt, **asked)

    def publish(self, rounds: int) -> int:
        """Another version of what the planner may have learnt, and its number."""

        async def publish(store: ModelStore) -> int:
            evaluation = {"gain": round(1 + rounds / 10, 3), "held_out_rounds": 100 * rounds}
            return (await store.publish(learnt(rounds), origin=Origin.RETRAINED, evaluation=evaluation)).version

        return self._with_store(publish)

    def history(self) -> History:
        """The versions as Redis has them."""
        return self._with_store(ModelStore.history)

    def _with_store(self, work: Any) -> Any:
        async def working() -> Any:
            async with redis_client(self.redis) as client:
                return await work(ModelStore(client, namespace="default", make_policy=planner))

        # In a thread of its own: this one has an event loop while the browser runs.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, working()).result()


def planner() -> LearningPolicy:
    """One that has learnt nothing."""
    policy = all_policies()["planner"]
    assert isinstance(policy, LearningPolicy)
    return policy


def learnt(rounds: int) -> ModelState:
    """What a planner has learnt from so many rounds."""
    policy = planner()
    for _ in range(rounds):
        policy.learn(FULL.context, FULL.plan, FULL.outcome)
    return policy.state()


@contextmanager
def seen_fleet(folder: Path, *, target: str = "zoo:target", drafters: Sequence[str] = ("code",)) -> Iterator[Seen]:
    """A fleet with tokens, versions and a page."""
    tokens = folder / "tokens.yaml"
    operator = new_token(tokens, role=Role.OPERATE, tenant="", expires=None)
    callers = [new_token(tokens, role=Role.CALL, tenant=name, expires=None) for name in (CLOSED_TENANT, OPEN_TENANT)]
    workers = {
        "target": worker_of("verify", Path(model_folder(target)), name="target"),
        **{name: worker("draft", name) for name in drafters},
    }
    settings = {"tokens": str(tokens), "privacy": {"log_tokens_of": [OPEN_TENANT]}}
    with (
        redis_server(folder) as redis,
        fleet(folder, workers=workers, token=operator, redis={"url": redis.url}, **settings) as started,
        page_before(started.address) as address,
    ):
        yield Seen(started, address, folder / "controller.yaml", redis.url, operator, *callers)


@contextmanager
def page_before(controller: str) -> Iterator[str]:
    """The address of a page process in front of a controller."""
    process = Process("page", ("page", "--controller", controller, "--listen", "127.0.0.1:0"))
    try:
        process.await_ready()
        yield process.address
    finally:
        process.end()


@contextmanager
def browser_of(found: Chromium) -> Iterator[Browser]:
    """The browser, without a window. Its sandbox needs rights that containers do not give; it visits our page alone."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found.executable,
            env={"HOME": "/tmp", **found.environment},
            args=["--no-sandbox", "--disable-gpu"],
        )
        try:
            yield browser
        finally:
            browser.close()


def enter(page: Page, token: str) -> None:
    """Say who we are."""
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Enter").click()

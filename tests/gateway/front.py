"""A gateway on a real port in front of a whole controller over fake workers, and clients to call it with."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from gateway.serve import running
from gateway.settings import GatewaySettings
from tests.controller.house import House, house

MODEL = "acme/letters"
PROMPT = "def area(radius):"
CONVERSATION: list[Any] = [{"role": "user", "content": "what?"}]
IGNORE_EOS = {"ignore_eos": True}


@dataclass(slots=True)
class Front:
    """Where a gateway listens, OpenAI's own client for it, and one that sends whatever it is told."""

    address: str
    openai: openai.AsyncOpenAI
    http: httpx2.AsyncClient

    async def completion(self, **fields: Any) -> Any:
        """An answer of 40 tokens, unless told otherwise."""
        return await self.openai.completions.create(
            **{"model": MODEL, "prompt": PROMPT, "max_tokens": 40, "seed": 7, "extra_body": IGNORE_EOS} | fields
        )

    async def chat(self, **fields: Any) -> Any:
        """The same of a conversation."""
        return await self.openai.chat.completions.create(
            **{"model": MODEL, "messages": CONVERSATION, "max_tokens": 40, "seed": 7, "extra_body": IGNORE_EOS} | fields
        )

    async def post(self, path: str = "/v1/completions", **fields: Any) -> httpx2.Response:
        """Whatever a caller may send; without fields of its own, a good request."""
        return await self.http.post(path, json={"model": MODEL, "prompt": PROMPT, "max_tokens": 4} | fields)


@asynccontextmanager
async def front_of(controller: str, **settings: Any) -> AsyncIterator[Front]:
    """A gateway in front of any controller."""
    given = GatewaySettings(controller=controller, listen="127.0.0.1:0", **settings)
    async with (
        running(given) as address,
        openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="secret", max_retries=0) as client,
        httpx2.AsyncClient(base_url=f"http://{address}", trust_env=False) as http,
    ):
        yield Front(address, client, http)


@asynccontextmanager
async def front(settings: dict[str, Any] | None = None, **at_home: Any) -> AsyncIterator[tuple[Front, House]]:
    """A gateway in front of a house."""
    async with house(**at_home) as home, front_of(home.controller.address, **settings or {}) as gateway:
        yield gateway, home

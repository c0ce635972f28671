"""/v1/models: the target's model, under the name by which callers ask for it."""

import time
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel

from forerun.client import AsyncClient
from gateway.errors import HTTPProblem


class Model(BaseModel):
    """A model that can be asked.

    Attributes:
        id: What requests call it.
        created: When this gateway began, Unix time in seconds: the model's own age is not known.
        max_model_len: Most tokens of a prompt and its answer together.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["forerun"] = "forerun"
    max_model_len: int


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]


class Models:
    """What the controller serves.

    Args:
        client: Asks it.
        name: The target's model, as callers shall call it; None: as the controller calls it.
    """

    def __init__(self, client: AsyncClient, name: str | None) -> None:
        self._client = client
        self._name = name
        self._began = int(time.time())
        self._known: frozenset[str] = frozenset()

    async def listed(self, metadata: Mapping[str, str]) -> list[Model]:
        """What is served now; nothing while no target serves."""
        served = await self._client.models(metadata=metadata)
        models = [
            Model(id=self._name or model.name, created=self._began, max_model_len=model.max_length) for model in served
        ]
        self._known = frozenset(model.id for model in models)
        return models

    async def named(self, name: str, metadata: Mapping[str, str]) -> Model:
        """The one of that name.

        Raises:
            HTTPProblem: There is none.
        """
        for model in await self.listed(metadata):
            if model.id == name:
                return model
        raise _unknown(name, self._known)

    async def check(self, name: str, metadata: Mapping[str, str]) -> None:
        """Raise HTTPProblem unless requests may ask for that model; the controller is asked where the name is new.

        While nothing is served no name is wrong: the request itself will say that there is no target.
        """
        if name not in self._known and await self.listed(metadata) and name not in self._known:
            raise _unknown(name, self._known)


def _unknown(name: str, known: frozenset[str]) -> HTTPProblem:
    listed = ", ".join(sorted(known)) or "none"
    message = f"the model {name[:64]!r} does not exist; known: {listed}"
    return HTTPProblem(404, message, param="model", code="model_not_found")

"""ModelService: versions of what policies have learnt, for those who operate a running controller."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from redis.exceptions import RedisError

from controller.acts import Acts
from controller.model_store import ModelStore, ModelVersion
from router_models.model_state import ModelState
from speculation.errors import FeatureUnavailableError, WorkerUnavailableError
from speculation.rpc import errors_to_status
from speculation.v1 import models_pb2, models_pb2_grpc

SERVICE_NAME = models_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name

CallContext = grpc.aio.ServicerContext[Any, Any]

StoreOf = Callable[[str], ModelStore]
"""The versions of a policy that learns; of the one whose learning is shared where the name is empty."""


class ModelService(models_pb2_grpc.ModelServiceServicer):
    """Shows versions, and says which one is in charge."""

    def __init__(self, store_of: StoreOf | None, acts: Acts) -> None:
        """
        Args:
            store_of: Where versions are; None: nowhere.
            acts: Told what was done.
        """
        self._store_of = store_of
        self._acts = acts

    def add_to(self, server: grpc.aio.Server) -> None:
        """Offer the service."""
        models_pb2_grpc.add_ModelServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    async def ListVersions(  # noqa: N802
        self, request: models_pb2.ListVersionsRequest, context: CallContext
    ) -> models_pb2.ListVersionsResponse:
        """All versions that are kept."""
        async with errors_to_status(context), self._store(request.policy) as store:
            history = await store.history()
            return models_pb2.ListVersionsResponse(
                policy=store.policy,
                versions=[_version(version) for version in history.versions],
                active=history.active,
                before=history.before,
            )

    async def CompareVersions(  # noqa: N802
        self, request: models_pb2.CompareVersionsRequest, context: CallContext
    ) -> models_pb2.CompareVersionsResponse:
        """In what two versions differ."""
        async with errors_to_status(context), self._store(request.policy) as store:
            old, new = [
                await (store.load(version) if version else store.learnt_until_now())
                for version in (request.old_version, request.new_version)
            ]
            return await asyncio.to_thread(_comparison, old, new)

    async def Promote(  # noqa: N802
        self, request: models_pb2.PromoteRequest, context: CallContext
    ) -> models_pb2.PromoteResponse:
        """Put a version in charge."""
        async with errors_to_status(context), self._store(request.policy) as store:
            await store.promote(request.version, replacing=request.replacing)
            self._acts.note(context, "version promoted", f"{request.version} of {store.policy}")
            return models_pb2.PromoteResponse(active=request.version)

    async def Rollback(  # noqa: N802
        self, request: models_pb2.RollbackRequest, context: CallContext
    ) -> models_pb2.RollbackResponse:
        """Put back in charge what was before."""
        async with errors_to_status(context), self._store(request.policy) as store:
            active = await store.rollback(replacing=request.replacing)
            detail = f"from {request.replacing} to {active} of {store.policy}"
            self._acts.note(context, "version rolled back", detail)
            return models_pb2.RollbackResponse(active=active)

    @asynccontextmanager
    async def _store(self, policy: str) -> AsyncIterator[ModelStore]:
        """The versions of a policy; what Redis does wrong while the body runs becomes a deliberate error."""
        if self._store_of is None:
            raise FeatureUnavailableError("this controller keeps no versions: its configuration names no Redis")
        store = self._store_of(policy)
        try:
            yield store
        except (RedisError, OSError, TimeoutError) as error:
            raise WorkerUnavailableError(f"Redis does not answer, and it holds the versions: {error}") from error


def _version(version: ModelVersion) -> models_pb2.ModelVersion:
    return models_pb2.ModelVersion(
        version=version.version,
        created_ms=version.created_ms,
        origin=version.origin.value,
        parent=version.parent,
        sha256=version.sha256,
        num_bytes=version.num_bytes,
        evaluation={
            name: value if isinstance(value, str) else json.dumps(value) for name, value in version.evaluation.items()
        },
    )


def _comparison(old: ModelState, new: ModelState) -> models_pb2.CompareVersionsResponse:
    names = sorted(old.arrays.keys() | new.arrays.keys())
    different = [name for name in names if not _equal(old.arrays, new.arrays, name)]
    return models_pb2.CompareVersionsResponse(
        tables=[_difference(name, old.arrays.get(name), new.arrays.get(name)) for name in different],
        equal_tables=len(names) - len(different),
    )


def _equal(old: Mapping[str, NDArray[Any]], new: Mapping[str, NDArray[Any]], name: str) -> bool:
    return name in old and name in new and np.array_equal(old[name], new[name])


def _difference(name: str, old: NDArray[Any] | None, new: NDArray[Any] | None) -> models_pb2.TableDifference:
    difference = models_pb2.TableDifference(
        name=name,
        old_numbers=old.size if old is not None else 0,
        new_numbers=new.size if new is not None else 0,
    )
    if old is not None and new is not None and old.shape == new.shape and old.dtype.kind == new.dtype.kind:
        change = np.abs(new.astype(float) - old.astype(float))
        difference.changed, difference.largest_change = int(np.count_nonzero(change)), float(change.max(initial=0.0))
    return difference

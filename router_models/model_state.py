"""What a policy has learnt, as bytes that are safe to load: arrays in safetensors, everything else in JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from speculation.errors import InvalidModelStateError

FORMAT = "forerun router model 2"
"""Changes whenever an older reader would misunderstand."""

MOST_BYTES = 64 << 20
"""A state this large was not made by us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """A snapshot of what a policy has learnt.

    Attributes:
        policy: Name of the policy that can take it up.
        arrays: Numbers, by name.
        labels: What the numbers are about: anything JSON can hold.
    """

    policy: str
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As a safetensors file; the same state gives the same bytes."""
        arrays = {name: np.ascontiguousarray(self.arrays[name]) for name in sorted(self.arrays)}
        about = {"format": FORMAT, "policy": self.policy, "labels": self.labels}
        # One entry: the library writes several in an order of chance.
        return save(arrays, metadata={"forerun": json.dumps(about, sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes) -> "ModelState":
        """The state of a file.

        Raises:
            InvalidModelStateError: It is no file of this format, or its numbers are not finite.
        """
        if len(data) > MOST_BYTES:
            raise InvalidModelStateError(f"{len(data)} bytes; at most {MOST_BYTES} are read")
        try:
            about = json.loads(_metadata(data)["forerun"])
            arrays = {name: _array(entry) for name, entry in _entries(data)}
            state = cls(policy=str(about["policy"]), arrays=arrays, labels=dict(about["labels"]))
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InvalidModelStateError(f"is no router model: {error}") from error
        if about.get("format") != FORMAT:
            raise InvalidModelStateError(f"has format {about.get('format')!r}; this release reads {FORMAT!r}")
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise InvalidModelStateError(f"array {name} has values that are not finite")
        return state


def _metadata(data: bytes) -> dict[str, str]:
    """The free part of a safetensors header (8 bytes of length, then JSON), which its NumPy reader does not return."""
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + length])["__metadata__"])


def _entries(data: bytes) -> list[tuple[str, Mapping[str, Any]]]:
    entries: list[tuple[str, Mapping[str, Any]]] = deserialize(data)  # type: ignore[no-untyped-call]
    return entries


_DTYPES = {"F64": np.float64, "F32": np.float32, "I64": np.int64, "I32": np.int32, "U8": np.uint8, "BOOL": np.bool_}


def _array(entry: Mapping[str, Any]) -> NDArray[Any]:
    return np.frombuffer(bytes(entry["data"]), dtype=_DTYPES[entry["dtype"]]).reshape(entry["shape"]).copy()

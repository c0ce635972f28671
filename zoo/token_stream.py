"""A corpus as one row of token ids, and the windows of it that training reads."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from zoo.vocabulary import DOCUMENT_START_ID

# A window may start at a document's first token and at every 256th after it, so that short documents are read whole.
_STRIDE = 256


@dataclass(frozen=True, slots=True, eq=False)
class TokenStream:
    """Documents in a row, each begun by the document-start token.

    Attributes:
        token_ids: (tokens,), uint16.
        starts: Positions at which a window may begin, ascending.
    """

    token_ids: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int64]

    def window(self, start: int, length: int) -> npt.NDArray[np.int64]:
        """`length` tokens from `start`; the stream is read as a ring."""
        return np.take(self.token_ids, np.arange(start, start + length), mode="wrap").astype(np.int64)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"token_ids": self.token_ids, "starts": self.starts}, path)

    @classmethod
    def load(cls, path: Path) -> "TokenStream":
        tensors = load_file(path)
        return cls(tensors["token_ids"], tensors["starts"])


def encode(documents: Sequence[str], tokenizer: Tokenizer, *, seed: str) -> TokenStream:
    """Encode documents in an order drawn from the seed."""
    order = np.random.default_rng(_number(seed)).permutation(len(documents))
    # The tokenizer's post-processor puts the document start before every document.
    rows = [encoding.ids for encoding in tokenizer.encode_batch([documents[index] for index in order])]
    starts: list[int] = []
    position = 0
    for row in rows:
        assert row[0] == DOCUMENT_START_ID
        starts.extend(range(position, position + len(row), _STRIDE))
        position += len(row)
    token_ids = np.concatenate([np.asarray(row, dtype=np.uint16) for row in rows])
    return TokenStream(token_ids, np.asarray(starts, dtype=np.int64))


class Mixture:
    """Draws training batches from several streams by weight; the seed fixes every batch."""

    def __init__(self, streams: Mapping[str, TokenStream], weights: Mapping[str, float], *, seed: int) -> None:
        self._streams = [streams[name] for name in weights]
        self._shares = np.asarray(list(weights.values())) / sum(weights.values())
        self._rng = np.random.default_rng(seed)

    def batch(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(inputs, next tokens), both (rows, length)."""
        windows = []
        for chosen in self._rng.choice(len(self._streams), size=rows, p=self._shares):
            stream = self._streams[chosen]
            windows.append(stream.window(int(self._rng.choice(stream.starts)), length + 1))
        tokens = torch.from_numpy(np.stack(windows))
        return tokens[:, :-1], tokens[:, 1:]


def _number(seed: str) -> int:
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")

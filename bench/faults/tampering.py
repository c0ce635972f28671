"""Messages that are changed on their way."""

from random import Random

from bench.faults.steps import request_of
from speculation.v1 import draft_pb2, verify_pb2

MOST_BYTES = 4


def corrupted(data: bytes, rng: Random) -> bytes:
    """The same with a few bytes wrong, one at least."""
    wrong = bytearray(data)
    for place in rng.sample(range(len(data)), min(rng.randint(1, MOST_BYTES), len(data))):
        wrong[place] ^= rng.randint(1, 255)
    return bytes(wrong)


def mistold(role: str, data: bytes, rng: Random) -> bytes | None:
    """A request whose context is not what the controller said, so that the worker's cache is of another text; None if
    it brings no context.

    Where it brings tokens one of them is another; else the worker is made to believe that it holds something else.
    """
    request = request_of(role, data)
    context = None if request is None else _context_of(request)
    if request is None or context is None:
        return None
    if context.token_ids:
        place = rng.randrange(len(context.token_ids))
        context.token_ids[place] = max(0, context.token_ids[place] - rng.randint(1, 9)) or 10
    else:
        context.prefix_hash ^= rng.getrandbits(63) | 1
    return request.SerializeToString()


def _context_of(request: draft_pb2.DraftRequest | verify_pb2.VerifyRequest):  # type: ignore[no-untyped-def]
    kind = request.WhichOneof("message")
    body = getattr(request, kind) if kind is not None else None
    return body.context if body is not None and hasattr(body, "context") else None

"""One number for a tokenizer: two models may share a request only if theirs agree."""

import hashlib
from collections.abc import Mapping


def tokenizer_fingerprint(vocabulary: Mapping[str, int]) -> str:
    """SHA-256 over the (id, token) pairs in the order of the ids.

    Args:
        vocabulary: Every token, special ones too, with its id: what `get_vocab()` of a Hugging Face tokenizer gives.
    """
    digest = hashlib.sha256()
    for token, token_id in sorted(vocabulary.items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{token_id}\t{token!r}\n".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()

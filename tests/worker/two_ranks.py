"""A rank of two, for tests: rank 0 plays through what an engine is for, and notes what came out."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.distributed.configuration_utils import DistributedConfig

from tests.worker.test_verification import COUNT, tree_makers
from tests.worker.tiny_worker import MAX_LENGTH, PROMPT, SAMPLINGS, speculative_text
from worker.engine import Chunk, Engine
from worker.host import TREE_ROOM
from worker.parallel_engine import LeadingEngine, follow
from worker.ranks import Ranks

SIZES: dict[str, Any] = {"slots": 4, "max_length": MAX_LENGTH + TREE_ROOM}


def main(folder: Path, result: Path) -> None:
    """Be the rank that the environment says."""
    torch.set_num_threads(1)
    ranks = Ranks(2, device_type="cpu")
    model = AutoModelForCausalLM.from_pretrained(folder, distributed_config=DistributedConfig(tp_size=2))
    if not ranks.leads:
        follow(Engine(model, **SIZES), ranks)
        return
    engine = LeadingEngine(model, ranks, **SIZES)
    result.write_text(json.dumps(played(engine)))
    ranks.leave()


def played(engine: Engine) -> dict[str, Any]:
    """What the engine says: logits after each token of a text, and texts with and without trees."""
    slot = engine.open()
    (logits,) = engine.forward([Chunk(slot=slot, token_ids=PROMPT)])
    engine.close(slot)
    plain = {name: speculative_text(engine, sampling, COUNT) for name, sampling in SAMPLINGS.items()}
    with_trees = {
        name: {kind: speculative_text(engine, SAMPLINGS[name], COUNT, make) for kind, make in tree_makers(text).items()}
        for name, text in plain.items()
    }
    return {
        "logits": logits.tolist(),
        "plain": plain,
        "with_trees": with_trees,
        "cache_bytes": engine.cache_bytes,
        "num_free": engine.num_free,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

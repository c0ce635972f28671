"""Tree speculation on the engine writes what `generate` writes, token for token."""

import pytest
import torch

from tests.architectures import SERVABLE, VOCAB_SIZE, greedy_continuation, served_model
from worker.engine import ROOT, Chunk, Engine
from worker.settings import Prepack

PROMPT_LENGTHS = (3, 40, 17, 1)
NUM_NEW = 24
DEPTH = 4
BRANCHING = 2


class NoisyDrafter:
    """Drafts with a damaged copy of the target: often right, often wrong."""

    def __init__(self, architecture: str) -> None:
        model = served_model(architecture)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for weights in model.parameters():
                if weights.ndim >= 2:
                    weights += 0.05 * weights.std() * torch.randn(weights.shape, generator=generator)
        self._engine = Engine(model, slots=len(PROMPT_LENGTHS), max_length=160, check=False)

    def open(self) -> int:
        return self._engine.open()

    def draft(self, slots: list[int], unseen: list[list[int]]) -> list[tuple[list[int], list[int]]]:
        """Grow one tree below each session's unseen tokens, depth by depth; (token ids, parents) each."""
        frontier = self._engine.forward(
            [Chunk(slot=slot, token_ids=new, wanted=[len(new) - 1]) for slot, new in zip(slots, unseen, strict=True)]
        )
        for slot in slots:
            self._engine.commit(slot)
        trees: list[tuple[list[int], list[int]]] = [([], []) for _ in slots]
        leaves = [[ROOT] for _ in slots]
        for _ in range(DEPTH):
            chunks = []
            for index, slot in enumerate(slots):
                token_ids, parents = trees[index]
                best = frontier[index].topk(BRANCHING).indices.tolist()
                begin = len(token_ids)
                for leaf, candidates in zip(leaves[index], best, strict=True):
                    token_ids += candidates
                    parents += [leaf] * BRANCHING
                new = range(begin, len(token_ids))
                # Only the first two nodes of a level grow on, so a tree stays small and its leaves differ in depth.
                leaves[index] = [new[0], new[1]]
                chunks.append(Chunk(slot=slot, token_ids=token_ids[begin:], parents=parents[begin:], wanted=[0, 1]))
            frontier = self._engine.forward(chunks)
        return trees

    def accept(self, slot: int, path: list[int]) -> None:
        self._engine.commit(slot, path)


def verify(
    engine: Engine, slots: list[int], roots: list[int], trees: list[tuple[list[int], list[int]]]
) -> list[tuple[list[int], int]]:
    """For each session the accepted path and the target's own next token after it."""
    logits = engine.forward(
        [
            Chunk(slot=slot, token_ids=[root, *token_ids], parents=[ROOT, *(parent + 1 for parent in parents)])
            for slot, root, (token_ids, parents) in zip(slots, roots, trees, strict=True)
        ]
    )
    verdicts = []
    for slot, rows, (token_ids, parents) in zip(slots, logits, trees, strict=True):
        choices = rows.argmax(dim=-1).tolist()
        children = {edge: node for node, edge in enumerate(zip(parents, token_ids, strict=True))}
        path = []
        node = children.get((ROOT, choices[0]))
        while node is not None:
            path.append(node)
            node = children.get((node, choices[node + 1]))
        engine.commit(slot, [0, *(node + 1 for node in path)])
        verdicts.append((path, choices[path[-1] + 1 if path else 0]))
    return verdicts


@pytest.mark.parametrize("prepack", ["off", "on"])
@pytest.mark.parametrize("architecture", SERVABLE)
def test_greedy_speculation_over_several_sessions_writes_what_generate_writes(
    architecture: str, prepack: Prepack
) -> None:
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(VOCAB_SIZE, (length,), generator=generator).tolist() for length in PROMPT_LENGTHS]
    target = Engine(served_model(architecture), slots=len(prompts), max_length=160, prepack=prepack)
    drafter = NoisyDrafter(architecture)
    slots = [target.open() for _ in prompts]
    drafter_slots = [drafter.open() for _ in prompts]

    logits = target.forward(
        [Chunk(slot=s, token_ids=prompt, wanted=[len(prompt) - 1]) for s, prompt in zip(slots, prompts, strict=True)]
    )
    for slot in slots:
        target.commit(slot)
    texts = [[int(row.argmax())] for row in logits]
    unseen = [[*prompt, *text] for prompt, text in zip(prompts, texts, strict=True)]
    accepted = []
    while min(map(len, texts)) < NUM_NEW:
        trees = drafter.draft(drafter_slots, unseen)
        verdicts = verify(target, slots, [text[-1] for text in texts], trees)
        for index, ((token_ids, _), (path, extra)) in enumerate(zip(trees, verdicts, strict=True)):
            drafter.accept(drafter_slots[index], path)
            texts[index] += [*(token_ids[node] for node in path), extra]
            unseen[index] = [extra]
            accepted.append(len(path))

    expected = [greedy_continuation(architecture, prompt, NUM_NEW) for prompt in prompts]
    assert [text[:NUM_NEW] for text in texts] == expected
    assert 0 < sum(accepted) < DEPTH * len(accepted), "the drafter should be right at times and wrong at times"
    assert len({token for text in expected for token in text}) > len(prompts), (
        "the texts should not repeat one token each"
    )

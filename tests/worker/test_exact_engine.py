"""In exact mode the logits of a token in bfloat16 are the same to the last bit, whatever else was forwarded and how."""

import functools
import random

import pytest
import torch
from torch import Tensor

import worker.exact_attention
from speculation.errors import ConfigurationError, UnservableModelError
from tests.architectures import VOCAB_SIZE, plain_logits, served_model
from worker.cache import LayerShape
from worker.compiled_model import CompiledModel
from worker.engine import ROOT, Chunk, Engine
from worker.exact_attention import step_of_queries
from worker.panels import has_panels
from worker.probe import TOLERANCES, relative_error
from worker.settings import Prepack, WorkerSettings

LENGTH = 100


@functools.cache
def exact_engine(architecture: str, prepack: Prepack = "off") -> Engine:
    return Engine(served_model(architecture).bfloat16(), slots=4, max_length=320, exact=True, prepack=prepack)


def logits_one_by_one(engine: Engine, token_ids: list[int]) -> Tensor:
    """(tokens, vocab) of plain decoding from the first token on."""
    slot = engine.open()
    rows = []
    for token in token_ids:
        rows += engine.forward([Chunk(slot=slot, token_ids=[token])])
        engine.commit(slot)
    engine.close(slot)
    return torch.cat(rows)


def random_tree(rng: random.Random, text: list[int], start: int) -> tuple[list[int], list[int], list[int]]:
    """Token ids, parents and a path: the text from `start` on, hidden in a tree of other tokens."""
    token_ids: list[int] = []
    parents: list[int] = []
    path: list[int] = []
    for token in text[start : start + rng.randint(1, 12)]:
        for _ in range(rng.randint(0, 2)):
            parents.append(rng.randint(ROOT, len(token_ids) - 1))
            token_ids.append(rng.randrange(VOCAB_SIZE))
        parents.append(path[-1] if path else ROOT)
        path.append(len(token_ids))
        token_ids.append(token)
    return token_ids, parents, path


class Reader:
    """A session that reads a text in slices and trees, forgets parts of it and reads them again."""

    def __init__(self, engine: Engine, rng: random.Random, text: list[int]) -> None:
        self._engine, self._rng, self._text = engine, rng, text
        self.slot = engine.open()
        self._path: list[int] = []

    def next_chunk(self) -> tuple[Chunk, int, list[int]]:
        """What to forward next, where in the text it begins, and which of its tokens belong to the text."""
        length = self._engine.length(self.slot)
        if length and self._rng.random() < 0.1:
            length = self._rng.randrange(length)
            self._engine.truncate(self.slot, length)
        if length < LENGTH // 3 or self._rng.random() < 0.2:
            token_ids = self._text[length : length + self._rng.randint(1, 70)]
            self._path = list(range(len(token_ids)))
            return Chunk(slot=self.slot, token_ids=token_ids), length, self._path
        token_ids, parents, self._path = random_tree(self._rng, self._text, length)
        return Chunk(slot=self.slot, token_ids=token_ids, parents=parents), length, self._path

    def keep(self) -> None:
        """Commit as much of the text as a verification might accept."""
        self._engine.commit(self.slot, self._path[: self._rng.randint(1, len(self._path))])


@pytest.mark.parametrize("prepack", ["auto", "off"])
@pytest.mark.parametrize(("architecture", "seed"), [("llama", 0), ("qwen3", 0), ("qwen3", 1), ("gemma3", 0)])
def test_logits_are_those_of_plain_decoding_whatever_was_forwarded_beside_them(
    architecture: str, seed: int, prepack: Prepack
) -> None:
    engine = exact_engine(architecture, prepack)
    rng = random.Random(seed)
    texts = [[rng.randrange(VOCAB_SIZE) for _ in range(LENGTH)] for _ in range(2)]
    expected = [logits_one_by_one(engine, text) for text in texts]
    readers = [Reader(engine, rng, text) for text in texts]
    while unfinished := [reader for reader in readers if engine.length(reader.slot) < LENGTH]:
        chosen = [reader for reader in unfinished if rng.random() < 0.8] or unfinished
        plans = [reader.next_chunk() for reader in chosen]
        results = engine.forward([chunk for chunk, _, _ in plans])
        for reader, (_, start, path), logits in zip(chosen, plans, results, strict=True):
            assert torch.equal(logits[path], expected[readers.index(reader)][start : start + len(path)])
            reader.keep()
    for reader in readers:
        engine.close(reader.slot)


@pytest.mark.skipif(not has_panels(torch.bfloat16), reason="this processor has no kernels for bfloat16")
@pytest.mark.parametrize(
    ("architecture", "prepack", "compiled"),
    [("qwen3", "auto", True), ("qwen3", "off", False), ("gemma3", "auto", False)],
)
def test_it_is_compiled_where_it_can_be(architecture: str, prepack: Prepack, compiled: bool) -> None:
    assert (exact_engine(architecture, prepack)._compiled is not None) is compiled


@pytest.mark.skipif(not has_panels(torch.bfloat16), reason="this processor has no kernels for bfloat16")
def test_it_is_compiled_after_another_engine_had_the_model() -> None:
    """As a worker does to find out how large a cache will be."""
    model = served_model("llama").bfloat16()
    Engine(model, slots=1, max_length=1, check=False)

    assert Engine(model, slots=1, max_length=64, exact=True, prepack="auto")._compiled is not None


def test_a_processor_without_kernels_has_them_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = pytest.importorskip("worker.kernels")
    monkeypatch.setattr(kernels, "MULTIPLIES_BFLOAT16", False)

    engine = Engine(served_model("qwen3").bfloat16(), slots=1, max_length=64, exact=True, prepack="auto")

    assert engine._compiled is None


def test_kernels_whose_bits_depend_on_what_is_beside_a_row_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is believed, of our own kernels neither."""
    if not has_panels(torch.bfloat16):
        pytest.skip("this processor has no kernels for bfloat16")
    logits = CompiledModel._logits
    monkeypatch.setattr(CompiledModel, "_logits", lambda model, rows: logits(model, rows) + (len(rows) > 1))

    with pytest.raises(UnservableModelError, match="of the logits of a trial depend on drafts"):
        Engine(served_model("qwen3").bfloat16(), slots=1, max_length=64, exact=True, prepack="auto")


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
def test_the_usual_attention_is_not_exact(architecture: str) -> None:
    """Else the test above could not fail."""
    engine = Engine(served_model(architecture).bfloat16(), slots=2, max_length=320, check=False)
    rng = random.Random(0)
    text = [rng.randrange(VOCAB_SIZE) for _ in range(LENGTH)]
    slot = engine.open()

    (together,) = engine.forward([Chunk(slot=slot, token_ids=text)])

    assert not torch.equal(together, logits_one_by_one(engine, text))


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
def test_logits_are_as_near_to_the_plain_model_as_with_the_usual_attention(architecture: str) -> None:
    """Beyond the first block, too, which the check of a model that is loaded does not reach."""
    rng = random.Random(0)
    text = [rng.randrange(VOCAB_SIZE) for _ in range(LENGTH)]
    usual, exact = Engine(served_model(architecture).bfloat16(), slots=1, max_length=320), exact_engine(architecture)
    expected = plain_logits(architecture, text)

    errors = []
    for engine in (usual, exact):
        slot = engine.open()
        (logits,) = engine.forward([Chunk(slot=slot, token_ids=text)])
        errors.append(relative_error(logits, expected))
        engine.close(slot)

    assert errors[1] < 1.5 * errors[0] < TOLERANCES[torch.bfloat16]


def test_wanted_logits_are_those_of_all_tokens() -> None:
    engine = exact_engine("qwen3")
    slot = engine.open()
    token_ids = list(range(40))

    (every,) = engine.forward([Chunk(slot=slot, token_ids=token_ids)])
    engine.commit(slot, ())
    (some,) = engine.forward([Chunk(slot=slot, token_ids=token_ids, wanted=[3, 39])])

    assert torch.equal(some, every[[3, 39]])
    engine.close(slot)


@pytest.mark.parametrize(
    ("architecture", "problem"),
    [
        ("gemma2", "softcap"),
        ("gpt2", "Conv1D"),
        ("mixtral", "keep rows apart"),
        ("deepseek_v3", "differ in size"),
        ("gpt_oss", "keep rows apart"),
        ("llama4", "keep rows apart"),
    ],
)
def test_a_model_that_cannot_be_exact_is_refused(architecture: str, problem: str) -> None:
    with pytest.raises(UnservableModelError, match=problem):
        Engine(served_model(architecture).bfloat16(), slots=1, max_length=64, exact=True)


def test_other_number_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16 on a CPU"):
        Engine(served_model("llama"), slots=1, max_length=64, exact=True)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"role": "verify"}, "exact: is for bfloat16"),
        ({"role": "verify", "dtype": "float16"}, "not for float16 on cpu"),
        ({"role": "verify", "dtype": "bfloat16", "device": "cuda:0"}, "not for bfloat16 on cuda:0"),
        ({"role": "draft", "dtype": "bfloat16"}, "exact: is for targets"),
    ],
    ids=str,
)
def test_settings_under_which_nothing_is_exact_are_refused(fields: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        WorkerSettings(model="m", name="n", exact=True, **fields)  # type: ignore[arg-type]


def test_queries_come_in_the_smallest_step_that_the_processor_keeps_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.exact_attention, "_keeps_apart", lambda step, *_: step >= 8)
    shapes = [LayerShape(num_heads=2, key_size=8, value_size=8, dtype=torch.bfloat16)]

    assert step_of_queries("Some", shapes) == 8


def test_a_processor_that_keeps_no_queries_apart_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.exact_attention, "_keeps_apart", lambda *_: False)

    with pytest.raises(UnservableModelError, match="depends on other queries"):
        Engine(served_model("qwen3").bfloat16(), slots=1, max_length=64, exact=True)


def test_a_kernel_whose_bits_depend_on_the_number_of_queries_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = worker.exact_attention._flash

    def by_number(query: Tensor, *arguments: object, **options: object) -> tuple[Tensor, Tensor]:
        average, log_weight = plain(query, *arguments, **options)
        return (average * 1.01 if query.shape[2] == 40 else average), log_weight

    monkeypatch.setattr(worker.exact_attention, "_flash", by_number)

    assert not worker.exact_attention._keeps_apart(8, 2, 8, 64)

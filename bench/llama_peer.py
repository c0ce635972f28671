"""llama.cpp as a peer on the same weights: plain, with a drafter, and with drafts from the text itself.

It has no setting that a request may choose: there is a server for each, and those that are not asked stand idle.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import MappingProxyType

from bench.llama_server import LlamaServer, LlamaServerError, llama_server
from forerun.progress import steps

_PLAIN = "plain"
_CHAIN = "--spec-draft-n-max"

CHAINS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        **{str(tokens): (_CHAIN, str(tokens)) for tokens in (1, 2, 3, 4, 8)},
        "8 while above 0.5": (_CHAIN, "8", "--spec-draft-p-min", "0.5"),
    }
)
"""How long a drafter drafts: tokens a round, and the confidence below which it ends."""

LOOKUPS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        f"{kind}, 8 after 3": ("--spec-type", kind, f"--spec-{kind}-size-n", "3", f"--spec-{kind}-size-m", "8")
        for kind in ("ngram-simple", "ngram-map-k")
    }
)
"""Drafts of 8 tokens that followed the last 3 before."""

_CACHE = {"float32": "f32", "bfloat16": "f16"}
"""Number format of keys and values: in float32 its answers are then ours; f16 is its default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaModels:
    """Files of a target and drafters, and how llama-server is to run them."""

    program: Path
    target: Path
    drafters: Mapping[str, Path]
    dtype: str

    @contextmanager
    def server(
        self, *, threads: int, slots: int = 1, drafter: str | None = None, setting: Sequence[str] = ()
    ) -> Iterator[LlamaServer]:
        """A server while the body runs.

        Args:
            threads: That compute.
            slots: Requests that it decodes at once.
            drafter: Name of its drafter.
            setting: One of CHAINS with a drafter, else one of LOOKUPS or none.
        """
        cache = _CACHE[self.dtype]
        options = ["--cache-type-k", cache, "--cache-type-v", cache, *setting]
        if drafter is not None:
            options += ["--spec-type", "draft-simple", "--model-draft", str(self.drafters[drafter])]
            options += ["--spec-draft-type-k", cache, "--spec-draft-type-v", cache]
            options += ["--spec-draft-threads", str(threads), "--spec-draft-threads-batch", str(threads)]
        name = "-".join([str(threads), str(slots), drafter or "none", *setting[1::2]])
        with llama_server(self.program, self.target, name, threads=threads, slots=slots, options=options) as server:
            yield server


@contextmanager
def llama_models(program: Path, target: str, drafters: Mapping[str, str], *, dtype: str) -> Iterator[LlamaModels]:
    """Models as files that llama.cpp reads, while the body runs.

    Args:
        program: llama-server.
        target: Folder of the target.
        drafters: Folders of the drafters, by name.
        dtype: Number format of all of them: float32 or bfloat16.

    Raises:
        LlamaServerError: The package that writes such files is missing.
    """
    try:
        from bench.gguf_file import write_gguf
    except ModuleNotFoundError as error:
        raise LlamaServerError("no models can be written for llama-server: pip install gguf") from error
    with tempfile.TemporaryDirectory(prefix="forerun-llama-") as folder:
        files = {name: Path(folder) / f"{name}.gguf" for name in drafters}
        for name, file in files.items():
            write_gguf(Path(drafters[name]), file, dtype=dtype)
        write_gguf(Path(target), whole := Path(folder) / "the-target.gguf", dtype=dtype)
        yield LlamaModels(program=program, target=whole, drafters=files, dtype=dtype)


@dataclass(frozen=True, slots=True)
class LlamaPeer:
    """A server for every setting.

    Attributes:
        threads: With which plain decoding is fastest.
    """

    threads: int
    _plain: Mapping[str, LlamaServer]
    _drafting: Mapping[str, Mapping[str, LlamaServer]]

    def settings(self, drafter: str) -> Mapping[str, LlamaServer]:
        """The servers that compete for prompts of which that drafter is the right one, by what they do."""
        return {**self._plain, **self._drafting[drafter]}


@contextmanager
def llama_peer(models: LlamaModels, prompt: Sequence[int], *, cores: int, max_new_tokens: int) -> Iterator[LlamaPeer]:
    """All servers while the body runs.

    Args:
        models: To be served.
        prompt: By which the number of threads is found.
        cores: Threads to be had.
        max_new_tokens: Of the answer to it.
    """
    threads = _fastest_threads(models, prompt, sorted({1, cores}), max_new_tokens)
    with (
        ExitStack() as running,
        steps("llama.cpp's servers", 1 + len(LOOKUPS) + len(models.drafters) * len(CHAINS)) as step,
    ):

        def started(drafter: str | None, setting: Sequence[str]) -> LlamaServer:
            server = running.enter_context(models.server(threads=threads, drafter=drafter, setting=setting))
            step()
            return server

        plain = {name: started(None, setting) for name, setting in {_PLAIN: (), **LOOKUPS}.items()}
        drafting = {
            drafter: {f"the right drafter, {name}": started(drafter, setting) for name, setting in CHAINS.items()}
            for drafter in models.drafters
        }
        yield LlamaPeer(threads, plain, drafting)


def _fastest_threads(models: LlamaModels, prompt: Sequence[int], choices: Sequence[int], max_new_tokens: int) -> int:
    best = dict.fromkeys(choices, 0.0)
    with ExitStack() as running:
        servers = {threads: running.enter_context(models.server(threads=threads)) for threads in choices}
        for _ in range(3):
            for threads, server in servers.items():
                best[threads] = max(best[threads], server.answer(prompt, max_new_tokens).decode_rate)
    return max(best, key=best.__getitem__)


def crowd_rate(server: LlamaServer, prompts: Sequence[Sequence[int]], *, streams: int, max_new_tokens: int) -> float:
    """Tokens a second of all answers together, prefill and waiting included, from the first request to the last answer.

    Args:
        server: From `LlamaModels.server`, with as many slots as streams and, if it is to draft, a drafter.
        prompts: Token ids; each is asked once, the next one as soon as a stream is free.
        streams: Requests under way at once.
        max_new_tokens: Of each answer.
    """
    began = perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        answers = list(pool.map(lambda prompt: server.answer(prompt, max_new_tokens), prompts))
    return sum(len(answer.token_ids) for answer in answers) / (perf_counter() - began)

"""llama.cpp's server as a process of ours: found, started, asked and ended."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from bench.timed import Timed
from speculation import tether
from speculation.errors import ConfigurationError, ForerunError

NAMED_BY = "LLAMA_SERVER"
BUILT = Path(__file__).parent.parent / ".forerun" / "llama.cpp" / "build" / "bin" / "llama-server"
READY_WITHIN_S = 120.0
ENDS_WITHIN_S = 10.0
LOOK_AGAIN_S = 0.05
PATIENCE_S = 600.0
CONTEXT = 1024
"""Tokens of prompt and answer, each slot."""


class LlamaServerError(ForerunError):
    """llama-server did not start, or refused what it was asked; the message ends with its own words."""

    reason = "LLAMA_SERVER"


def find_llama_server() -> Path | None:
    """What LLAMA_SERVER names, else what `make llama-server` built, else what is on the PATH.

    Raises:
        ConfigurationError: LLAMA_SERVER names something else than a program.
    """
    if named := os.environ.get(NAMED_BY):
        if not os.access(named, os.X_OK) or Path(named).is_dir():
            raise ConfigurationError(NAMED_BY, f"{named} is no program; name llama.cpp's llama-server, or unset it")
        return Path(named)
    found = shutil.which(BUILT) or shutil.which("llama-server")
    return Path(found) if found else None


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """A server that runs; it may be asked from several threads at once.

    Attributes:
        address: A socket file.
    """

    address: Path

    def answer(self, prompt: Sequence[int], max_new_tokens: int) -> Timed:
        """Decode greedily.

        Raises:
            LlamaServerError: It refused.
        """
        request = {
            "prompt": list(prompt),
            "n_predict": max_new_tokens,
            "temperature": 0.0,
            "samplers": ["temperature"],
            "cache_prompt": False,
            "return_tokens": True,
        }
        status, reply = self._ask("POST", "/completion", request)
        if status != 200:
            raise LlamaServerError(f"llama-server refused a prompt of {len(prompt)} tokens: {reply}")
        return timed_answer(reply)

    def ready(self) -> bool:
        """Whether it has loaded its models."""
        try:
            status, _ = self._ask("GET", "/health")
        except OSError:
            return False
        return status == 200

    def _ask(self, method: str, path: str, request: object = None) -> tuple[int, Any]:
        connection = _SocketFileConnection(self.address)
        try:
            connection.request(method, path, json.dumps(request) if request else None)
            response = connection.getresponse()
            return response.status, json.load(response)
        finally:
            connection.close()


def timed_answer(reply: Mapping[str, Any]) -> Timed:
    """The server's reply to /completion: `predicted_ms` begins when the first token has been sampled."""
    tokens = tuple(reply["tokens"])
    decoding_ms = reply["timings"]["predicted_ms"]
    return Timed(
        token_ids=tokens, decode_rate=1e3 * (len(tokens) - 1) / decoding_ms if len(tokens) > 1 else float("nan")
    )


class _SocketFileConnection(HTTPConnection):
    def __init__(self, address: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._address = address

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._address))


@contextmanager
def llama_server(
    program: Path, model: Path, name: str, *, threads: int, slots: int = 1, options: Sequence[str] = ()
) -> Iterator[LlamaServer]:
    """A server while the body runs; it listens on a socket file beside the model, and dies with this process.

    Args:
        program: llama-server.
        model: GGUF file.
        name: Of its socket and its log.
        threads: That compute, for one token and for many.
        slots: Requests that it decodes at once.
        options: Further ones of the command line.

    Raises:
        LlamaServerError: It could not start.
    """
    server, log = LlamaServer(model.with_name(f"{name}.sock")), model.with_name(f"{name}.log")
    command = [
        *(sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), str(program)),
        *("--model", str(model), "--host", str(server.address), "--offline", "--no-ui", "--cache-ram", "0"),
        *("--parallel", str(slots), "--ctx-size", str(slots * CONTEXT)),
        *("--threads", str(threads), "--threads-batch", str(threads)),
        *options,
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        _await_ready(server, process, log)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        server.address.unlink(missing_ok=True)


def _await_ready(server: LlamaServer, process: "subprocess.Popen[bytes]", log: Path) -> None:
    waits_until = time.monotonic() + READY_WITHIN_S
    while not server.ready():
        if process.poll() is not None or time.monotonic() > waits_until:
            said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            raise LlamaServerError(f"llama-server did not start; it said last: {said[-1]}")
        time.sleep(LOOK_AGAIN_S)

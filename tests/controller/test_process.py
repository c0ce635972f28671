"""`python -m controller`, from its ready line to its last breath."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from controller.text import load_tokenizer
from speculation.errors import ModelNotFoundError
from speculation.v1 import generation_pb2, generation_pb2_grpc
from tests import fakes
from tests.controller.house import eventually, read, run
from tests.controller.test_text import TOKENIZER, tokenizer_folder


def test_it_says_where_it_listens_serves_and_drains_on_sigterm(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "tokenizer")
    what = {"fingerprint": TOKENIZER.fingerprint, "vocab_size": TOKENIZER.vocab_size}

    async def scenario() -> None:
        async with fakes.workers(fakes.description(**what), fakes.description("draft", "alpha", **what)) as started:
            config = tmp_path / "controller.yaml"
            config.write_text(
                f"listen: 127.0.0.1:0\ntokenizer: {folder.name}\nredis: {{url: 'embedded://{tmp_path}/redis'}}\n"
                f"workers:\n- {{role: verify, address: '{started[0].address}'}}\n"
                f"- {{role: draft, address: '{started[1].address}'}}\n"
            )
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "controller", "--config", str(config)),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert process.stdout is not None
            ready = json.loads(await process.stdout.readline())
            children = psutil.Process(process.pid).children()
            async with grpc.aio.insecure_channel(ready["address"]) as channel:
                for worker in started:
                    worker.worker.faults.delay_s = 0.02
                call = generation_pb2_grpc.GenerationServiceStub(channel).Generate(
                    generation_pb2.GenerateRequest(text="So: ", max_new_tokens=30, ignore_eos=True), timeout=60
                )
                reading = asyncio.create_task(read(call))
                await eventually(lambda: len(started[0].worker.rounds) > 1)
                services = await _reflected(channel)

                process.send_signal(signal.SIGTERM)
                answer = await reading
            _, log = await process.communicate()

            assert ready["event"] == "ready"
            assert len(answer.token_ids) == 30, "what runs is finished"
            assert "speculation.v1.GenerationService" in services
            assert process.returncode == 0
            assert len(children) == 2
            assert not any(child.is_running() for child in children), "its Redis and its learner end with it"
            events = [json.loads(line) for line in log.decode().splitlines() if line.startswith("{")]
            assert any("EMBEDDED REDIS" in event["message"] for event in events)
            (ended,) = [event for event in events if event["message"] == "request ended"]
            assert ended["request_id"] == answer.summary.request_id

    run(scenario(), within_s=120)


async def _reflected(channel: grpc.aio.Channel) -> set[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(timeout=5)
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    reply = await call.read()
    call.cancel()
    return {service.name for service in reply.list_services_response.service}


def test_a_wrong_configuration_ends_it_with_one_line(tmp_path: Path) -> None:
    config = tmp_path / "controller.yaml"
    config.write_text("tokenizer: x\nlisten: nowhere\n")

    done = subprocess.run(
        [sys.executable, "-m", "controller", "--config", str(config)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"error: {config}:2: listen: must be host:port, like 127.0.0.1:50050"]


def test_a_tokenizer_brings_the_end_tokens_of_its_model(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "tokenizer")
    (folder / "config.json").write_text('{"model_type": "llama", "eos_token_id": 9}')
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 5]}')

    tokenizer = load_tokenizer(str(folder))

    assert tokenizer.end_token_ids == TOKENIZER.end_token_ids | {7, 5}
    assert (tokenizer.fingerprint, tokenizer.vocab_size) == (TOKENIZER.fingerprint, TOKENIZER.vocab_size)


def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nothing"):
        load_tokenizer(str(tmp_path / "nothing"))

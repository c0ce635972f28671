"""Where there is no torch, as in its image, a controller serves, and a worker says what it lacks."""

import json
import subprocess
import sys
from pathlib import Path

from forerun.connection import Connection
from forerun.health import State, health_of
from zoo.catalog import model_folder

WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None  # whoever imports it is told that there is none
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def test_a_controller_starts_and_serves_where_there_is_no_torch(tmp_path: Path) -> None:
    config = tmp_path / "controller.yaml"
    config.write_text(f"listen: 127.0.0.1:0\ntokenizer: {model_folder('target')}\nrouter: {{policy: planner}}\n")

    with subprocess.Popen(
        [sys.executable, "-c", WITHOUT_TORCH, "controller", "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            answer = health_of(Connection.to(json.loads(line)["address"]), timeout_s=30)
        finally:
            process.terminate()
            _, log = process.communicate()

    assert (answer.kind, answer.state) == ("controller", State.NOT_SERVING), "there is no target yet"
    assert process.returncode == 0, log


def test_a_worker_says_in_one_line_that_it_needs_torch() -> None:
    words = ("--role", "draft", "--model", str(model_folder("code")), "--name", "code")

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "worker", *words], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("worker: torch: is not installed")
    assert "Traceback" not in done.stderr

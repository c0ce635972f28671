"""A controller needs no torch: its image has none."""

import json
import subprocess
import sys
from pathlib import Path

from forerun.health import State, health_of
from zoo.catalog import model_folder

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # whoever imports it is told that there is none
from controller.__main__ import main
sys.exit(main())
"""


def test_a_controller_starts_and_serves_where_there_is_no_torch(tmp_path: Path) -> None:
    config = tmp_path / "controller.yaml"
    config.write_text(f"listen: 127.0.0.1:0\ntokenizer: {model_folder('target')}\nrouter: {{policy: planner}}\n")

    with subprocess.Popen(
        [sys.executable, "-c", WITHOUT_TORCH, "--config", str(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            answer = health_of(json.loads(line)["address"], timeout_s=30)
        finally:
            process.terminate()
            _, log = process.communicate()

    assert (answer.kind, answer.state) == ("controller", State.NOT_SERVING), "there is no target yet"
    assert process.returncode == 0, log

"""The committed Python code of the protocol is what the protocol says."""

import subprocess
import sys
from pathlib import Path

ROOT_FOLDER = Path(__file__).parent.parent


def test_generated_code_is_current(tmp_path: Path) -> None:
    protos = sorted(str(path) for path in (ROOT_FOLDER / "protos").rglob("*.proto"))
    out = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT_FOLDER / 'protos'}", *out, *protos], check=True
    )

    generated = {path.name: path.read_text() for path in (tmp_path / "speculation" / "v1").iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT_FOLDER / "speculation" / "v1").glob("*_pb2*")}
    assert committed == generated, "run `make protos`"

"""Executes the Dockerfile where there is no Docker: `make deploy-check`, or one of the steps below at a time.

    python deploy/docker/check.py base           debootstrap, in place of the image that BASE names
    python deploy/docker/check.py build TARGET   every step of controller or worker-cpu, by buildah
    python deploy/docker/check.py run            both as their images say, on a root that cannot be written to

Needs root, Debian's debootstrap, buildah and bubblewrap, and a package index. FORERUN_CHECK names a folder for the
images, TORCH_INDEX an index of CPU builds of torch; FORERUN_CHECK_OPTIONS are options of buildah, such as mounts of
what this machine's package index needs. `run` takes the ports 50050 and 50061; unshare --net has them for itself.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = Path(os.environ.get("FORERUN_CHECK", "/var/tmp/forerun-check"))
BASE = "localhost/forerun-base"
RELEASE = "bookworm"
PACKAGES = "python3,python3-venv,ca-certificates"
READY_S = 120.0
CONTROLLER_FILE = """\
listen: 127.0.0.1:50050
tokenizer: /models/target
redis: {url: "embedded:///var/cache/forerun/redis"}
workers:
  - {role: verify, address: "127.0.0.1:50061"}
"""


def main() -> None:
    """Do the step that the command line names."""
    match sys.argv[1:]:
        case ["base"]:
            base()
        case ["build", target]:
            build(target)
        case ["run"]:
            run()
        case _:
            sys.exit(__doc__)


def base() -> None:
    """The smallest Debian with a Python, as an image."""
    root = WORK / "base"
    if not root.exists():
        _do("debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, str(root))
    container = _buildah("from", "scratch")
    _buildah("copy", "--quiet", container, str(root), "/")
    _buildah("commit", "--quiet", "--rm", container, BASE)


def build(target: str) -> None:
    """One target of the Dockerfile."""
    arguments = [f"BASE={BASE}", f"TORCH_INDEX={os.environ.get('TORCH_INDEX', '')}"]
    _do(
        *_BUILDAH,
        *("build", "--isolation=chroot", "--format=docker", "--pull-never", "--layers", "--target", target),
        *(word for argument in arguments for word in ("--build-arg", argument)),
        *os.environ.get("FORERUN_CHECK_OPTIONS", "").split(),
        *("--file", str(ROOT / "deploy/docker/Dockerfile"), "--tag", _tag(target), str(ROOT)),
    )


def run() -> None:
    """A worker and a controller as their images say; they must serve, answer, and end when they are told to."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _mounted("worker-cpu") as worker,
        _mounted("controller") as controller,
    ):
        Path(folder).chmod(0o755)
        (Path(folder) / "controller.yaml").write_text(CONTROLLER_FILE)
        mounts = ("--ro-bind", folder, "/etc/forerun", "--ro-bind", str(ROOT / "zoo/models"), "/models")
        serve = ("worker", "verify", "--model", "/models/target", "--listen", "127.0.0.1:50061")
        with worker.running(mounts, serve), controller.running(mounts):
            controller.once(mounts, ("health", "127.0.0.1:50050", "127.0.0.1:50061"))
            controller.once(mounts, ("generate", "def area(radius):", "--max-new-tokens", "16"))


@dataclass(frozen=True, slots=True)
class Image:
    """A built image whose files are at hand.

    Attributes:
        root: Its root folder.
        user: Whose its processes are.
        environment: Of its processes.
        entrypoint: Before every command.
        command: Where none is named.
        probe: Its health check.
    """

    root: Path
    user: str
    environment: dict[str, str]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    probe: tuple[str, ...]

    @contextmanager
    def running(self, mounts: Sequence[str], command: Sequence[str] = ()) -> Iterator[None]:
        """Runs while the body does; its own probe has found it well. Afterwards it must end by itself on SIGTERM."""
        about, tell = os.pipe()
        words = self._words(mounts, (*self.entrypoint, *(command or self.command)), "--info-fd", str(tell))
        process = subprocess.Popen(words, stdout=subprocess.PIPE, pass_fds=(tell,), text=True)
        os.close(tell)
        with open(about) as information:
            inside = json.load(information)["child-pid"]
        try:
            assert process.stdout is not None
            if not select.select([process.stdout], [], [], READY_S)[0] or '"ready"' not in process.stdout.readline():
                sys.exit(f"{' '.join(words)} is not ready within {READY_S:g} s")
            _do(*self._words(mounts, self.probe))
            yield
            os.kill(inside, signal.SIGTERM)
            if status := process.wait(READY_S):
                sys.exit(f"{' '.join(words)} ended with status {status}")
        finally:
            process.kill()
            process.wait()

    def once(self, mounts: Sequence[str], command: Sequence[str]) -> None:
        """Run one of its commands to its end."""
        _do(*self._words(mounts, (*self.entrypoint, *command)))

    def _words(self, mounts: Sequence[str], command: Sequence[str], *options: str) -> list[str]:
        """As containers run it: as its user, process 1, without capabilities, on a root that is read-only."""
        settings = (word for name, value in self.environment.items() for word in ("--setenv", name, value))
        return [
            *("bwrap", "--ro-bind", str(self.root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
            *("--perms", "1777", "--tmpfs", "/var/cache/forerun", "--unshare-pid", "--as-pid-1", "--die-with-parent"),
            # Enough to become the image's user, and nothing after that.
            *("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--clearenv", *settings),
            *(*mounts, "--chdir", "/var/cache/forerun", *options, "--"),
            *("setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", "--no-new-privs", *command),
        ]


@contextmanager
def _mounted(target: str) -> Iterator[Image]:
    container = _buildah("from", "--pull-never", _tag(target))
    try:
        about = json.loads(_buildah("inspect", container))["Docker"]["config"]
        yield Image(
            root=Path(_buildah("mount", container)),
            user=about["User"],
            environment=dict(setting.split("=", 1) for setting in about["Env"]),
            entrypoint=tuple(about["Entrypoint"]),
            command=tuple(about["Cmd"]),
            probe=tuple(about["Healthcheck"]["Test"][1:]),
        )
    finally:
        _buildah("rm", container)


def _tag(target: str) -> str:
    return f"localhost/forerun-{target}"


_BUILDAH = ("buildah", "--root", str(WORK / "images"), "--runroot", str(WORK / "run"))


def _buildah(*arguments: str) -> str:
    return subprocess.run([*_BUILDAH, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _do(*command: str) -> None:
    print("+", *command, file=sys.stderr, flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

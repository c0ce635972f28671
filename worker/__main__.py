"""`python -m worker`: one draft or verify worker."""

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from speculation.errors import ConfigurationError, ForerunError
from speculation.logs import LogFormat, log_to_stderr
from worker.launcher import RANK, is_rank, launch
from worker.settings import ROLES, WorkerSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until it is told to end; the exit status is 1 if it could not start."""
    options = vars(_parser().parse_args(arguments))
    try:
        log_to_stderr(options.pop("log_format"))
        settings = _settings(options)
        if settings.tensor_parallel > 1 and not is_rank():
            return launch(settings.tensor_parallel, sys.argv[1:] if arguments is None else arguments)
        _prepare_threads(settings.threads)
        _run(settings)
    except ForerunError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 1
    return 0


def settings_of(arguments: Sequence[str]) -> WorkerSettings:
    """What a worker that is started with these arguments is told, for whoever is to start one.

    Raises:
        ConfigurationError: It would not start.
    """
    options = vars(_parser(_Raising).parse_args(arguments))
    del options["log_format"]
    return _settings(options)


def _settings(options: Mapping[str, Any]) -> WorkerSettings:
    return WorkerSettings(**{name: value for name, value in options.items() if value is not None})


class _Raising(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError("worker", message)


def _prepare_threads(threads: int) -> None:
    """Before torch is imported: it reads these once. Spinning threads of several processes would starve each other."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _run(settings: WorkerSettings) -> None:
    try:
        from worker.serve import follow, serve
    except ModuleNotFoundError as missing:
        if missing.name != "torch":
            raise
        raise ConfigurationError(
            "torch", "is not installed, and a worker needs it: pip install 'forerun[worker]'"
        ) from missing

    if settings.tensor_parallel > 1 and os.environ[RANK] != "0":
        follow(settings)
        return
    try:
        from uvloop import run
    except ImportError:
        asyncio.run(serve(settings))
    else:
        run(serve(settings))


def _parser(kind: type[argparse.ArgumentParser] = argparse.ArgumentParser) -> argparse.ArgumentParser:
    defaults = {field.name: field.default for field in fields(WorkerSettings)}

    def add(flag: str, help_text: str, **options: object) -> None:
        default = defaults.get(str(options.get("dest", flag.strip("-").replace("-", "_"))))
        shown = f" (default {default})" if isinstance(default, str | float) or type(default) is int else ""
        parser.add_argument(flag, help=help_text + shown, **options)  # type: ignore[arg-type]

    parser = kind(prog="python -m worker", description="Serves one model to a Forerun controller.")
    add("--role", "what the model is for", choices=ROLES, required=True)
    add("--model", "folder or hub id; suffix:TARGET drafts without a model, from the text itself", required=True)
    add("--name", "name of the drafter or target, as operators and requests use it", required=True)
    add("--listen", "host:port; port 0 takes a free one", metavar="ADDRESS")
    add("--tls-cert", "PEM file of the certificate that controllers are shown", type=Path, metavar="FILE")
    add("--tls-key", "PEM file of its key", type=Path, metavar="FILE")
    add("--tls-client-ca", "PEM file of those who sign controllers' certificates", type=Path, metavar="FILE")
    add("--insecure", "listen in plain text where other machines can reach it, too", action="store_true")
    add("--revision", "hub branch, tag or commit of the model")
    add("--dtype", "float32, bfloat16 or float16")
    add("--device", "torch device, such as cuda:0")
    add("--exact", "a target in bfloat16 on a CPU decides as in plain decoding, to the last bit", action="store_true")
    add("--prepack", "pack weights for the CPU's kernels: on, off, or auto if a trial finds that faster")
    add("--tensor-parallel", "ranks that serve a target together, each with a part of every layer", type=int)
    add("--threads", "torch threads", type=int)
    add(
        "--forward-threads",
        "threads that share a forward of our kernels (default: for a target --threads or 2)",
        type=int,
    )
    add("--slots", "sessions whose caches fit at once (default: what --cache-gib holds, or 16)", type=int)
    add("--cache-gib", "most memory for keys and values, in GiB", type=float)
    add("--least-idle", "seconds that a session keeps its slot while others wait", type=float, dest="least_idle_s")
    add("--remember", "most tokens of ended texts to draft from, per tenant (without a model; 0: none)", type=int)
    add("--remember-tenants", "tenants remembered; the least recently used is forgotten first", type=int)
    add("--max-length", "most tokens of a session, tree included", type=int)
    add("--max-sessions", "streams open at once", type=int)
    add("--max-calls", "calls waiting at once; more are answered BUSY", type=int)
    add("--redis", "where to register: redis://, rediss:// or unix://", dest="redis_url", metavar="URL")
    add("--namespace", "which fleet to register with")
    add("--advertise", "host:port under which others reach this worker", metavar="ADDRESS")
    add("--heartbeat-ttl", "seconds after which a registration lapses", type=float, dest="heartbeat_ttl_s")
    add("--metrics-listen", "host:port of metrics for Prometheus (default: nothing listens)", metavar="ADDRESS")
    add("--otlp-endpoint", "URL of a collector of traces, OTLP over gRPC (default: nothing is traced)", metavar="URL")
    add("--log-format", "one line an event on stderr (default json)", choices=list(LogFormat))
    add("--grace", "seconds that running sessions get on SIGTERM", type=float, dest="grace_s")
    return parser


if __name__ == "__main__":
    sys.exit(main())

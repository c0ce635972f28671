"""`forerun generate`: one answer, as it comes."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forerun.commands.controller_address import (
    DEFAULT_ADDRESS,
    Ca,
    Cert,
    ServerName,
    Target,
    Token,
    told_if_nobody_answers,
)
from forerun.console import PEOPLE, emit, plain
from speculation.errors import InvalidRequestError

if TYPE_CHECKING:
    from forerun.client import Stream
    from speculation.tree import TreeShape


def generate(
    prompt: Annotated[
        str, typer.Argument(help="What to continue; - reads it from standard input.", show_default=False)
    ],
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a user's turn: use the chat template.")] = False,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", help="Most tokens to generate.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Keep tokens this many times as likely as the likeliest.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.", show_default="drawn")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text at which to stop; may be given again.")] = None,
    task: Annotated[str, typer.Option(help="What kind of text this is, for example code.")] = "",
    latency_class: Annotated[
        str, typer.Option(help="How long it may wait when there are too many.", show_default="the operator's")
    ] = "",
    request_id: Annotated[
        str, typer.Option(help="Your name for it, for `forerun router explain`.", show_default="one is made")
    ] = "",
    policy: Annotated[str, typer.Option(help="How to speculate.", show_default="the operator's")] = "",
    drafters: Annotated[str, typer.Option(help="Only these, by commas.", show_default="any")] = "",
    shape: Annotated[str, typer.Option(help="Pin the tree: DEPTHxBRANCHINGxBUDGET, for example 4x1x4.")] = "",
    no_speculation: Annotated[bool, typer.Option("--no-speculation", help="Plain decoding.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show every round: its tree, what was kept, why.")] = False,
    target: Target = DEFAULT_ADDRESS,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    server_name: ServerName = None,
    timeout_s: Annotated[float, typer.Option(help="Deadline in seconds.")] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="The whole answer as one line of JSON.")] = False,
) -> None:
    """Generate text through a running controller.

    [cyan]forerun generate "def area(radius):" --task code[/cyan]

    [cyan]forerun generate --chat "What is 12 times 31?" --explain[/cyan]

    [cyan]cat prompt.txt | forerun generate - --temperature 0.8 --seed 7 --json[/cyan]
    """
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "stop": stop or (),
        "task": task,
        "latency_class": latency_class,
        "request_id": request_id,
        "policy": policy,
        "drafters": [name.strip() for name in drafters.split(",") if name.strip()],
        "explain": explain,
        "timeout_s": timeout_s,
    }
    if seed is not None:
        options["seed"] = seed
    if shape:
        options["shape"] = shape_of(shape)
    if no_speculation:
        options["speculation"] = False
    text = sys.stdin.read() if prompt == "-" else prompt
    way = {"address": target, "token": token, "ca": ca, "cert": cert, "server_name": server_name}
    _run(way, text, chat=chat, options=options, as_json=as_json)


def shape_of(text: str) -> "TreeShape":
    """The shape of "4x1x4"; "4" alone is a chain."""
    from speculation.tree import TreeShape

    try:
        depth, branching, budget = (int(part) for part in (text if "x" in text else f"{text}x1x{text}").split("x"))
    except ValueError:
        raise InvalidRequestError("shape", f"{text!r} is not DEPTHxBRANCHINGxBUDGET, for example 4x1x4") from None
    return TreeShape(depth=depth, branching=branching, budget=budget)


def _run(way: dict[str, Any], text: str, *, chat: bool, options: dict[str, Any], as_json: bool) -> None:
    from forerun.client import Client, Retry
    from forerun.explanation import draw_summary

    if chat:
        options["messages"] = [{"role": "user", "content": text}]
    with (
        # A person at a terminal would rather be told than wait.
        Client(**way, retry=Retry(attempts=2)) as client,
        client.stream(None if chat else text, **options) as stream,
        told_if_nobody_answers(way["address"]),
    ):
        if as_json:
            _exhaust(stream)
        elif options["explain"]:
            _show_rounds(stream)
        else:
            _show_text(stream)
    if as_json:
        answer = stream.generation
        derived = ("mean_acceptance_length", "draft_acceptance_rate", "histogram")
        acceptance = {name: plain(getattr(answer.acceptance, name)) for name in derived}
        emit({**plain(answer), "tokens_per_second": answer.tokens_per_second, "derived": acceptance})
    else:
        PEOPLE.print(draw_summary(stream.generation))


def _exhaust(stream: "Stream") -> None:
    for _ in stream:
        pass


def _show_text(stream: "Stream") -> None:
    for delta in stream:
        print(delta.text, end="", flush=True)
    print(flush=True)


def _show_rounds(stream: "Stream") -> None:
    """The rounds as they end, and then the text by itself."""
    from forerun.explanation import draw_round

    shown = 0
    for _ in stream:
        for report in stream.rounds[shown:]:
            PEOPLE.print(draw_round(report))
        shown = len(stream.rounds)
    for report in stream.rounds[shown:]:
        PEOPLE.print(draw_round(report))
    print(stream.text, flush=True)

"""`forerun zoo`: the models that come with the product, what they are, and how to make them again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from forerun.console import PEOPLE, RESULT, emit

if TYPE_CHECKING:
    import zoo.training

app = typer.Typer(
    name="zoo", no_args_is_help=True, help="The models that come with Forerun: a target and five drafters."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models, and the cost-padded copies that can be made of them.

    [cyan]forerun zoo list[/cyan]
    """
    from zoo.cards import num_parameters, summary
    from zoo.catalog import MODELS, model_folder
    from zoo.profiles import PROFILES

    models = [
        {"name": f"zoo:{name}", "parameters": num_parameters(model_folder(name)), "summary": summary(name)}
        for name in MODELS
    ]
    profiles = [{"name": f"zoo:target@{name}", "summary": profile.summary} for name, profile in PROFILES.items()]
    if as_json:
        emit({"models": models, "profiles": profiles})
        return
    table = Table("name", "parameters", "what it is")
    for model in models:
        table.add_row(str(model["name"]), f"{model['parameters']:,}", str(model["summary"]))
    for profile in profiles:
        table.add_row(profile["name"], "cost-padded", profile["summary"])
    RESULT.print(table)


@app.command("card")
def card(
    name: Annotated[str, typer.Argument(help="target, code, docs, math, json or mixed.")] = "target",
    as_json: AsJson = False,
) -> None:
    """Show a model's card: what it was made of and what it was measured to do.

    [cyan]forerun zoo card math[/cyan]
    """
    from zoo.cards import load_measurements
    from zoo.catalog import model_folder

    folder = model_folder(name.removeprefix("zoo:"))
    text = (folder / "README.md").read_text(encoding="utf-8")
    if as_json:
        emit({"name": f"zoo:{folder.name}", "card": text, "measurements": load_measurements(folder.parent)})
    else:
        # The block between the first two rules is for machines that index model folders.
        RESULT.print(Markdown(text.split("---\n", 2)[-1]))


@app.command("inflate")
def inflate(
    profile: Annotated[str, typer.Argument(help="deep (for a CPU) or wide (for a GPU).")],
    cache_dir: Annotated[Path | None, typer.Option(help="Where to write; the user's cache otherwise.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the copy of the target that computes the same at a larger model's cost, and print its folder.

    [cyan]forerun zoo inflate deep[/cyan]
    """
    from zoo.catalog import default_cache_dir, model_folder
    from zoo.inflation import LABEL
    from zoo.profiles import materialise

    folder = materialise(profile, cache_dir or default_cache_dir(), source=model_folder("target"))
    if as_json:
        emit({"name": f"zoo:target@{profile}", "folder": str(folder), "label": LABEL})
    else:
        RESULT.print(str(folder))


@app.command("train")
def train(
    text: Annotated[
        list[Path], typer.Argument(help="Files, or folders with files, of the kind of text that requests will be.")
    ],
    out: Annotated[Path, typer.Option(help="New folder for the model.")],
    pattern: Annotated[str, typer.Option(help="Which files of folders, for example *.py.")] = "*",
    steps: Annotated[int, typer.Option(min=2, help="Of 2,048 tokens each; more are better.")] = 600,
    threads: Annotated[int, typer.Option(min=1, help="Of the processor.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The same text, steps and seed give the same model.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a drafter of your own for the zoo's target, on your texts, in minutes. Needs no network and no compiler.

    For a target of another family, train a small model with that one's tokenizer by any means: every Hugging Face
    folder can draft.

    [cyan]forerun zoo train ./letters --out ./letters-drafter[/cyan]

    [cyan]forerun zoo train ./src --pattern "*.sql" --out ./sql-drafter --steps 1200 --threads 2[/cyan]
    """
    from zoo.own_drafter import read_texts, train_own_drafter

    texts = read_texts(text, pattern)
    PEOPLE.print(f"{len(texts)} documents, {sum(map(len, texts)):,} characters")
    import torch

    torch.set_num_threads(threads)
    with _stages() as begin:
        folder = train_own_drafter(texts, out, steps=steps, seed=seed, begin=begin)
    if as_json:
        emit({"folder": str(folder), "documents": len(texts), "steps": steps})
    else:
        RESULT.print(str(folder))


@app.command("build")
def build(
    out: Annotated[Path, typer.Option(help="Folder for everything the build writes.")] = Path(".forerun/zoo"),
    quick: Annotated[bool, typer.Option("--quick", help="A few steps of everything: a trial, not a model.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="The shipped weights were made with one.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Make the zoo again from its sources: same corpora, steps and seeds as the shipped weights.

    About an hour and a half on one core with bfloat16 matrix units, several hours on one without; `--quick` takes ten
    minutes. Needs a C++ compiler, and the network once. A build that was interrupted goes on where it stopped.

    [cyan]forerun zoo build --quick[/cyan]
    """
    import torch

    from zoo.build import build as build_zoo
    from zoo.recipe import FULL, QUICK

    torch.set_num_threads(threads)
    with _stages() as begin:
        models = build_zoo(out / "quick" if quick else out, QUICK if quick else FULL, begin)
    if as_json:
        emit({"models": str(models), "quick": quick})
    else:
        RESULT.print(str(models))


@contextmanager
def _stages() -> Iterator[Callable[[str], "zoo.training.Report"]]:
    """One bar per stage on stderr, with the loss beside it."""
    columns = (
        TextColumn("{task.description:16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=PEOPLE) as bars:

        def begin(stage: str) -> "zoo.training.Report":
            bar = bars.add_task(stage, total=None, loss="")

            def report(progress: "zoo.training.Progress") -> None:
                bars.update(
                    bar, completed=progress.step, total=progress.steps, loss=f"{progress.loss:.3f} nats per token"
                )

            return report

        yield begin

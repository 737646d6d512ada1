"""`avbench submit`: what an author does; `new` asks for what the files do not say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich_click as click

from avbench.cli.check import check
from avbench.cli.counter import attack
from avbench.cli.push import push

# What is asked for if no flag says it, in this order; of the first five the model itself may know some.
QUESTIONS = {
    "id": "Id, <org>--<model>",
    "architecture": "Architecture (see `avbench list architectures`)",
    "dataset": "Dataset that it was trained for",
    "title": "Title on the board",
    "summary": "One line about it, for readers of the board",
    "training_data": "Data that it was trained on",
    "license": "License of the weights, as SPDX calls it (MIT, CC-BY-4.0)",
    "authors": "Authors",
}
OPTIONAL = {
    "contact": "Where maintainers may ask, or nothing",
    "paper": "Address of the paper, or nothing",
    "source": "Address of the source code, or nothing",
}


@click.group()
def submit() -> None:
    """Submit a model: write its form, check it as maintainers do, publish it."""


def _flags(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, question in reversed((QUESTIONS | OPTIONAL).items()):
        command = click.option(f"--{name.replace('_', '-')}", name, help=question.removesuffix(", or nothing") + ".")(
            command
        )
    return command


@submit.command()
@click.argument("model")
@_flags
@click.option("--defense", help="How it was defended, such as minsim; by default none.")
@click.option("--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="Of the architecture or the factory.")
@click.option(
    "--track", "tracks", multiple=True, metavar="SUITE", help="Suite to be evaluated by; by default standard."
)
@click.option("--claim", "claims", multiple=True, metavar="SUITE:CLEAN[:ROBUST]", help="What you measured, in %.")
@click.option("--weights", type=click.Path(path_type=Path), help="File that FILE.py:Factory reads, .safetensors.")
@click.option(
    "--submissions",
    type=click.Path(path_type=Path),
    default="submissions",
    show_default=True,
    help="Where to write it.",
)
def new(
    model: str,
    arguments: tuple[str, ...],
    tracks: tuple[str, ...],
    claims: tuple[str, ...],
    weights: Path | None,
    submissions: Path,
    **said: str | None,
) -> None:
    """Write submissions/<org>--<model>/ for MODEL, and ask for what is neither in it nor given.

    MODEL is a folder that `avbench pack` wrote, a .safetensors file of an architecture of avbench, or FILE.py:Factory.
    """
    from avbench.cli.models import parse_arguments
    from avbench.submit.new import Begun, describe, write
    from avbench.suites import find_suite

    begun = describe(model, weights)
    given: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    if arguments:
        given["arguments"] = begun.entries.get("arguments", {}) | parse_arguments(arguments)
    given |= {"tracks": [find_suite(track).name for track in tracks or ("standard",)]}
    given |= {"claims": [_claim(claim) for claim in claims]} if claims else {}
    entries = _ask(begun.entries | given)
    name = entries.pop("id")
    submission, folder = write(submissions, name, Begun(entries, begun.files)), submissions / name
    click.echo(f"{folder}: tier {submission.tier}, {', '.join(['submission.yaml', *begun.files])}")
    click.echo(f"now:  avbench submit check {folder}{' --trust-remote-code' if submission.code else ''}")


def _claim(text: str) -> dict[str, str]:
    from avbench.errors import BadOption
    from avbench.suites import find_suite

    suite, *figures = text.split(":")
    if len(figures) not in (1, 2):
        raise BadOption(f"--claim takes SUITE:CLEAN or SUITE:CLEAN:ROBUST, such as standard:90.5:12.0, not {text!r}")
    return {"suite": find_suite(suite).name} | dict(zip(("clean", "robust"), figures, strict=False))


def _ask(known: dict[str, Any]) -> dict[str, Any]:
    """Ask for what is missing; each answer is checked, and asked for again if it is not as it must be.

    Raises:
        BadOption: if nobody answers, naming the flags that are missing.
    """
    from avbench.errors import BadOption

    wanted = [name for name in QUESTIONS if name not in known]
    if "graph" in known or "code" in known:
        wanted = [name for name in wanted if name != "architecture"]
    try:
        for name in wanted:
            known[name] = click.prompt(QUESTIONS[name], value_proc=_check(name))
        for name in OPTIONAL if wanted else ():
            if name not in known:
                known[name] = click.prompt(OPTIONAL[name], "", show_default=False, value_proc=_check(name)) or None
    except click.Abort as error:
        if not isinstance(error.__context__, EOFError):  # Ctrl+C
            raise
        if missing := [f"--{name.replace('_', '-')}" for name in wanted if name not in known]:
            click.echo()  # ends the line of the question
            raise BadOption(f"nobody answers; give {', '.join(missing)}") from None
    return known


def _check(name: str) -> Callable[[str], str]:
    """Make the check of one answer."""
    from pydantic import ValidationError, create_model

    from avbench.errors import SubmissionError
    from avbench.form import Submission
    from avbench.names import check_id

    fields: dict[str, Any] = {one: (field.annotation, field) for one, field in Submission.model_fields.items()}
    form = create_model("Answer", **{name: fields[name]}) if name in fields else None

    def check(answer: str) -> str:
        if not answer and name in OPTIONAL:
            return answer
        try:
            if form is None:
                return check_id(answer)
            form.model_validate({name: answer})
        except SubmissionError as error:
            raise click.UsageError(str(error)) from error
        except ValidationError as error:
            raise click.UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
        return answer

    return check


for command in (check, push, attack):
    submit.add_command(command)

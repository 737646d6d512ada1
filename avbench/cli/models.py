"""The flags that say how MODEL is to be opened, the same in every command that opens one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import rich_click as click

from avbench.errors import BadOption

_Command = Callable[..., Any]
trust_option = click.option(
    "--trust-remote-code", is_flag=True, help="Allow a model that is code, FILE.py:Factory; it runs in a sandbox."
)
_FLAGS = (
    click.option("--dataset", help="Dataset; by default the submission's, else the one the file names, else synthav."),
    click.option("--architecture", help="Architecture of a weights file that does not say."),
    click.option(
        "--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="Argument of the architecture; repeatable."
    ),
    trust_option,
    click.option(
        "--sandbox/--no-sandbox",
        default=None,
        help="Run the model in a worker process behind walls, or in this process; by default code and graphs do.",
    ),
)


def model_options(command: _Command) -> _Command:
    """Give a command the flags of `avbench.sandbox.open_model`, which it gets as `how`."""

    @functools.wraps(command)
    def with_how(
        *args: Any,
        dataset: str | None,
        architecture: str | None,
        arguments: tuple[str, ...],
        trust_remote_code: bool,
        sandbox: bool | None,
        **rest: Any,
    ) -> Any:
        how = {
            "dataset": dataset, "architecture": architecture, "arguments": parse_arguments(arguments),
            "trust_remote_code": trust_remote_code, "sandbox": sandbox,
        }  # fmt: skip
        return command(*args, how=how, **rest)

    flagged: _Command = with_how
    for flag in reversed(_FLAGS):
        flagged = flag(flagged)
    return flagged


def parse_arguments(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Read NAME=VALUE pairs; a value is a whole number, a number, true, false or text.

    Raises:
        BadOption: if a pair has no `=`.
    """
    import yaml

    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise BadOption(f"--arg takes NAME=VALUE, not {pair!r}")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise BadOption(f"--arg {name}: {value!r} is not a value; quote text that holds special signs") from None
    return found

"""The command line: every command calls the function of the same name and imports nothing heavy before it must."""

from __future__ import annotations

import sys

import rich_click as click

from avbench import __version__
from avbench.cli.analyze import analyze
from avbench.cli.attack import attack
from avbench.cli.boards import leaderboard
from avbench.cli.convert import convert
from avbench.cli.data import data
from avbench.cli.diagnose import diagnose
from avbench.cli.evidence import evidence
from avbench.cli.figures import figures
from avbench.cli.look import compare, env, listing, score, show
from avbench.cli.pack import pack
from avbench.cli.results import hub
from avbench.cli.runs import evaluate, train
from avbench.cli.submit import submit
from avbench.cli.verify import verify
from avbench.errors import AvbenchError

STOPPED = 130  # exit code after Ctrl-C, as shells have it


class _Main(click.RichGroup):
    """Turn named errors into one message and exit code 2, and Ctrl-C into a hint."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except AvbenchError as error:
            click.echo(f"{type(error).__name__}: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("stopped; what is finished is kept, and the same command continues", err=True)
            sys.exit(STOPPED)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="avbench")
def main() -> None:
    """Measure the adversarial robustness of audio-visual models.

    Begin with `avbench evaluate avbench--synthav-concat`, a committed model on the embedded dataset.
    """


COMMANDS = (
    evaluate, train, score, diagnose, analyze, figures, attack, show, compare, listing, env, data, leaderboard, convert,
    pack, verify, evidence, submit, hub,
)  # fmt: skip
for command in COMMANDS:
    main.add_command(command)

"""`avbench submit push`: the weights of a submission on the Hugging Face Hub."""

from __future__ import annotations

import shlex
from pathlib import Path

import rich_click as click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--repo", required=True, metavar="ORG/NAME", help="Model repository; made if it does not exist.")
def push(folder: Path, repo: str) -> None:
    """Publish the weights of the submission in FOLDER, with a model card, on the Hugging Face Hub.

    Its submission.yaml then says where they are, at which commit. Log in first: `hf auth login`.
    """
    from avbench.hub.models import push_weights

    submission = push_weights(folder, repo)
    assert submission.weights
    name, place = folder.resolve().name, shlex.quote(str(folder))
    left_out = shlex.quote(f":!{folder / submission.weights.file}")  # the weights, which may be too large for git
    click.echo(f"{submission.weights.file} is published: {repo} at {submission.weights.revision}")
    click.echo("now, in a clone of your fork of avbench:")
    click.echo(f"  git switch --create {name}")
    click.echo(f"  git add -- {place} {left_out}")
    click.echo(f"  git commit --message 'Submit {name}'")
    click.echo(f"  git push --set-upstream origin {name}")
    click.echo("and open a pull request on GitHub")

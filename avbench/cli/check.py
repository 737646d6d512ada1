"""`avbench submit check`: what a maintainer's machine will find in a submission, before it is sent."""

from __future__ import annotations

import sys
from pathlib import Path

import rich_click as click

FAILED = 1  # exit code


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--trust-remote-code", is_flag=True, help="Let a model that is code run, in a sandbox.")
@click.option("--limit", type=int, default=64, show_default=True, help="Samples to try it on, at most 64.")
@click.option("--output-dir", type=click.Path(path_type=Path), help="Keep the run of `quick` here.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the report as Markdown, too.")
def check(path: Path, trust_remote_code: bool, limit: int, output_dir: Path | None, markdown: Path | None) -> None:
    """Try all that decides whether the submission in the folder PATH can become a row.

    Its form and files, how the model answers, whether its gradients are those of its answers, whether it remembers
    what it was asked, a `quick` evaluation with its health flags, and what the author claims. All is computed on the
    CPU. Exit code: 0 if nothing failed, also if a person has to look at a warning; 1 if something failed; 2 if PATH
    cannot be checked.
    """
    from rich.console import Console

    from avbench.progress import working
    from avbench.submit import report
    from avbench.submit.check import check as examine

    with working("checking the submission", quiet=False):
        findings = examine(path, limit, output_dir, trust_remote_code)
    title = path.resolve().name
    Console().print(report.table(title, findings))
    if markdown:
        markdown.write_text(report.markdown(title, findings), encoding="utf-8")
    if report.worst(findings) == "fail":
        sys.exit(FAILED)

"""Results on the Hub: runs and their scores as a dataset, and the figures of a model in its own repository."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from huggingface_hub.utils.sha import git_hash

from avbench import __version__, hub, progress
from avbench.api import score
from avbench.errors import BadOption, DataError, IncompleteRun
from avbench.hub.client import HubError, api, commit, login, talking
from avbench.metrics import CLEAN, NONE, WORST_CASE
from avbench.metrics.avg import MEAN_OF_THREATS
from avbench.site.records import Run, read_runs

FIGURES = ".eval_results/avbench.yaml"  # in a model's repository
_OURS = re.compile(r"results/[^/]+/[^/]+/(rows\.parquet|run\.json|health\.json)")  # what `push_results` puts there
_COLUMNS = {
    "track": "dataset, split and suite with its version: runs of one track are comparable",
    "model": "id of the submission",
    "metric": "name of the figure",
    "threat": "threat model as text, `clean`, or what the figure sums up",
    "attack": "attack, `none`, or `worst case` over all attacks",
    "value": "the figure",
    "low": "lower end of its 95 % interval, if one is defined",
    "high": "upper end of it",
    "unit": "unit of value, low and high",
    "n": "samples that the figure rests on",
    "run": "hash that identifies the run, as in its run.json",
}
_SHOWN = {  # on the page of a model: task to metric, threat, attack, words
    "clean-accuracy": ("clean-accuracy", CLEAN, NONE, "clean accuracy"),
    "robust-accuracy": ("avg", MEAN_OF_THREATS, WORST_CASE, f"robust accuracy, {MEAN_OF_THREATS} in the {WORST_CASE}"),
}


def push_results(repo: str, folders: Sequence[Path]) -> str:
    """Publish all finished runs at or below some folders, and their scores, as a dataset repository.

    Its new commit holds exactly these runs; files of other names stay.

    Returns:
        The commit, 40 hexadecimal digits.

    Raises:
        DataError, IncompleteRun, ProtocolMismatch: if a run cannot be used, or there is none.
        HubError: if nobody is logged in, or the Hub refuses or cannot be reached; then nothing was published.
    """
    token = login(repo)
    runs = _read(folders)
    contents: dict[str, bytes | Path] = {
        "README.md": _readme(repo, runs).encode(),
        "summary.parquet": _summary(runs).to_parquet(index=False),
    }
    for place, run in runs.items():
        names = ("rows.parquet", "run.json", *(("health.json",) if run.health else ()))
        contents |= {f"{place}/{name}": run.folder / name for name in names}
    return commit(repo, "dataset", token, contents, f"{len(runs)} runs (avbench {__version__})", _OURS)


def push_figures(repo: str, folders: Sequence[Path], results: str) -> str:
    """Write clean and robust accuracy of a model into its repository, where the Hub looks for evaluation results.

    All else there stays as it is, the text of its card too; figures that were written so before are replaced.

    Args:
        repo: the model's repository.
        folders: its runs.
        results: the dataset repository to which `push_results` has published them; the figures link to it.

    Returns:
        The commit, 40 hexadecimal digits.

    Raises:
        BadOption: if the runs are of several models, or have no accuracy.
        DataError, IncompleteRun, ProtocolMismatch: if a run cannot be used, or there is none.
        HubError: if the runs are not published, nobody is logged in, or the Hub refuses or cannot be reached.

    Source: https://huggingface.co/docs/hub/eval-results
    """
    token = login(repo)
    runs = _read(folders)
    if len(models := {run.record.model.id for run in runs.values()}) > 1:
        raise BadOption(f"these are runs of {', '.join(sorted(models))}; give runs of the model in {repo} only")
    with talking(repo):
        api(token).model_info(repo)  # must exist; a repository without a model would help nobody
    revision = _published(results, token, runs)
    entries = [entry for place, run in runs.items() for entry in _entries(place, run, results, revision)]
    if not entries:
        raise BadOption("these runs have no accuracy, since their clips have several labels; the Hub gets no figure")
    text = yaml.safe_dump(entries, sort_keys=False)
    return commit(repo, "model", token, {FIGURES: text.encode()}, f"Evaluation results (avbench {__version__})")


def _read(folders: Sequence[Path]) -> dict[str, Run]:
    """Read finished runs, by their place in a repository of results."""
    runs: dict[str, Run] = {}
    for run in read_runs(folders):
        place = f"results/{_track(run)}/{run.record.model.id}"
        if place in runs:
            raise DataError(
                f"{runs[place].folder} and {run.folder} are runs of one model on one track; keep one of them"
            )
        runs[place] = run
    if not runs:
        raise IncompleteRun(f"no finished run in {', '.join(map(str, folders))}; run `avbench evaluate` first")
    return dict(sorted(runs.items()))


def _track(run: Run) -> str:
    dataset, suite = run.record.dataset, run.record.suite
    return f"{dataset.name}-{dataset.split}-{suite.name}@{suite.version}"


def _summary(runs: Mapping[str, Run]) -> pd.DataFrame:
    tables = [
        score(run.folder).assign(track=_track(run), model=run.record.model.id, run=run.record.run)
        for run in progress.track(list(runs.values()), "scores")
    ]
    return pd.concat(tables, ignore_index=True)[list(_COLUMNS)]


def _readme(repo: str, runs: Mapping[str, Run]) -> str:
    """Write the dataset card that the Hub shows, and from which `datasets.load_dataset` learns of the summary."""
    head = {
        "pretty_name": "Results of avbench",
        "license": "mit",
        "tags": ["avbench", "audio-visual", "adversarial-robustness"],
        "configs": [{"config_name": "summary", "data_files": [{"split": "train", "path": "summary.parquet"}]}],
    }
    boards = Counter(map(_track, runs.values()))
    return (
        Path(hub.__file__)
        .with_name("results.md")
        .read_text(encoding="utf-8")
        .format(
            head=yaml.safe_dump(head, sort_keys=False),
            repo=repo,
            boards="\n".join(f"| {name} | {count} |" for name, count in boards.items()),
            columns="\n".join(f"| `{name}` | {what} |" for name, what in _COLUMNS.items()),
        )
    )


def _published(results: str, token: str, runs: Mapping[str, Run]) -> str:
    """Give the newest commit of a repository of results, which is to hold these very runs."""
    with talking(results):
        info = api(token).dataset_info(results, files_metadata=True)
    held = {one.rfilename: one.blob_id for one in info.siblings or ()}
    for place, run in runs.items():
        if held.get(f"{place}/run.json") != git_hash((run.folder / "run.json").read_bytes()):
            raise HubError(f"{results} does not hold the run in {run.folder}; publish it by `avbench hub push` first")
    return str(info.sha)


def _entries(place: str, run: Run, results: str, revision: str) -> Iterator[dict[str, Any]]:
    """Say the figures of one run as the Hub has them; what its form has no field for is in the notes."""
    scores, record, track = score(run.folder), run.record, _track(run)
    suite, dataset = record.suite, record.dataset
    for task, (*key, words) in _SHOWN.items():
        found = scores[(scores[["metric", "threat", "attack"]] == key).all(axis=1)]
        if len(found):
            yield {
                "dataset": {"id": results, "task_id": f"{track.replace('@', '-v')}-{task}", "revision": revision},
                "value": round(float(found["value"].iloc[0]), 2),
                "date": record.provenance.created,
                "source": {"url": f"{api().endpoint}/datasets/{results}/tree/{revision}/{place}", "name": "avbench"},
                "notes": f"{words}, %; {dataset.name} {dataset.split}, {dataset.evaluated} of {dataset.size} clips; "
                f"suite {suite.name}@{suite.version}; run {record.run}",
            }

"""Results on the Hub: what is pushed is what was measured, replaces itself alone, and figures link to their rows."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from hub_server import HubServer
from huggingface_hub import (
    DatasetCard,
    EvalResultEntry,
    constants,
    eval_result_entries_to_yaml,
    parse_eval_result_entries,
)
from pandas.testing import assert_frame_equal
from site_runs import write_run

import avbench
from avbench.cli import main
from avbench.errors import BadOption, DataError, IncompleteRun
from avbench.hub.client import HubError
from avbench.publish import FIGURES, push_figures, push_results

RESULTS, MODEL = "org/results", "org/model"
TRACKS = ["synthav-test-cvpr21-attack@1", "synthav-test-quick@1"]
RUN = f"results/{TRACKS[0]}/avbench--one"
OURS = {f"{RUN}/{name}" for name in ("rows.parquet", "run.json", "health.json")}
CARD = b"---\nlicense: mit\nmodel-index: []\n---\n\n# Mine\n\n## Results  \r\n\nwritten by hand\n"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.chdir(tmp_path)
    one = HubServer.serving(tmp_path, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield one
    one.close()


@pytest.fixture
def run(hub: HubServer) -> Path:
    return write_run(Path("runs"), "one", 1, n=20)


def avbench_hub(*words: object) -> Result:
    return CliRunner().invoke(main, ["hub", *map(str, words)])


def read_summary(hub: HubServer) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(hub.read("dataset", RESULTS, "summary.parquet")))


def figures(hub: HubServer) -> list[EvalResultEntry]:
    return parse_eval_result_entries(yaml.safe_load(hub.read("model", MODEL, FIGURES)))


def test_what_is_pushed_is_the_runs_and_their_scores(hub: HubServer, run: Path) -> None:
    runs = [run, write_run(Path("runs"), "two", 2, n=20), write_run(Path("more"), "one", 3, n=20, suite="quick")]
    (runs[1] / "health.json").unlink()
    write_run(Path("runs"), "unfinished", 4, n=20, rows_sha256=None)
    said = avbench_hub("push", "--repo", RESULTS, "--results", "runs", "--results", "more")
    assert said.exit_code == 0, said.output
    assert f"{RESULTS} at {hub.heads[f'dataset/{RESULTS}']}\n" in said.output
    summary, files = read_summary(hub), {".gitattributes", "README.md", "summary.parquet"}
    for folder in runs:
        track, model = folder.parent.name, f"avbench--{folder.name}"
        mine = summary[(summary["track"] == track) & (summary["model"] == model)]
        assert set(mine["run"]) == {json.loads((folder / "run.json").read_text())["run"]}
        scores = avbench.score(folder)
        assert_frame_equal(mine[list(scores)].reset_index(drop=True), scores)
        names = {path.name for path in folder.iterdir()}
        for name in names:
            assert hub.read("dataset", RESULTS, f"results/{track}/{model}/{name}") == (folder / name).read_bytes()
        files |= {f"results/{track}/{model}/{name}" for name in names}
    assert len(summary) == sum(len(avbench.score(folder)) for folder in runs)
    assert set(hub.files("dataset", RESULTS)) == files


def test_the_dataset_card_says_where_the_summary_is_and_what_its_columns_are(hub: HubServer, run: Path) -> None:
    push_results(RESULTS, [run])
    card = DatasetCard(hub.read("dataset", RESULTS, "README.md").decode())
    head = card.data.to_dict()  # type: ignore[no-untyped-call]
    [config] = head["configs"]
    assert config["config_name"] == "summary"
    assert {one["path"] for one in config["data_files"]} == {"summary.parquet"} <= set(hub.files("dataset", RESULTS))
    assert (head["license"], "avbench" in head["tags"]) == ("mit", True)
    described = [line.split("`")[1] for line in card.text.splitlines() if line.startswith("| `")]
    assert described == list(read_summary(hub))
    assert f"| {TRACKS[0]} | 1 |" in card.text


def test_a_second_push_replaces_the_runs_and_touches_nothing_else(hub: HubServer, run: Path) -> None:
    two = write_run(Path("runs"), "two", 2, n=20)
    push_results(RESULTS, [Path("runs")])
    others = {"NOTES.md": b"by hand", f"{RUN}/review.json": b"{}", "mine/a/b/run.json": b"{}"}
    hub.commit("dataset", RESULTS, {**others, "results/old/avbench--gone/rows.parquet": b"left behind"})
    shutil.rmtree(two)
    commit = push_results(RESULTS, [Path("runs")])
    files = hub.files("dataset", RESULTS)
    assert set(files) == {".gitattributes", "README.md", "summary.parquet", *OURS, *others}
    assert set(read_summary(hub)["model"]) == {"avbench--one"}
    for path, data in others.items():
        assert hub.read("dataset", RESULTS, path) == data
    push_results(RESULTS, [Path("runs")])
    assert hub.files("dataset", RESULTS, commit) == hub.files("dataset", RESULTS) == files  # equal runs, equal bytes


def test_the_figures_of_a_model_are_what_its_runs_say_in_the_form_that_the_hub_reads(hub: HubServer, run: Path) -> None:
    again = write_run(Path("runs"), "one", 2, n=20, suite="quick")
    held = {"README.md": CARD, "model.safetensors": b"x", ".eval_results/other.yaml": b"- {}\n"}
    hub.create("model", MODEL)
    hub.commit("model", MODEL, dict(held))
    commit = push_results(RESULTS, [Path("runs")])
    said = avbench_hub("card", MODEL, run, again, "--results", RESULTS)
    assert said.output == f"the figures are published: {MODEL} at {hub.heads[f'model/{MODEL}']}\n"
    entries = figures(hub)
    assert eval_result_entries_to_yaml(entries) == yaml.safe_load(hub.read("model", MODEL, FIGURES))  # all is read
    for folder, track, (clean, robust) in zip((run, again), TRACKS, (entries[:2], entries[2:]), strict=True):
        scores = avbench.score(folder)
        shown = scores[scores["metric"].isin(["clean-accuracy", "avg"]) & scores["attack"].isin(["none", "worst case"])]
        assert dict(zip(shown["metric"], shown["value"].round(2), strict=True)) == {
            "clean-accuracy": clean.value, "avg": robust.value,
        }  # fmt: skip
        record = json.loads((folder / "run.json").read_text())
        for name, one in (("clean-accuracy", clean), ("robust-accuracy", robust)):
            assert (one.dataset_id, one.dataset_revision) == (RESULTS, commit)
            assert one.task_id == f"{track.replace('@', '-v')}-{name}"
            assert one.date == record["provenance"]["created"]
            assert one.source_url == f"{hub.url}/datasets/{RESULTS}/tree/{commit}/results/{track}/avbench--one"
            assert one.notes
            assert one.notes.startswith(name.replace("-", " "))
            assert f"synthav test, 20 of 500 clips; suite {track[13:]}; run {record['run']}" in one.notes
    for path, data in held.items():
        assert hub.read("model", MODEL, path) == data
    push_figures(MODEL, [run], RESULTS)
    assert figures(hub) == entries[:2]
    assert set(hub.files("model", MODEL)) == {".gitattributes", FIGURES, *held}


def test_figures_whose_rows_nobody_can_look_at_are_not_published(hub: HubServer, run: Path) -> None:
    hub.create("model", MODEL)
    before = hub.heads[f"model/{MODEL}"]
    with pytest.raises(HubError, match=f"answers 404 for {RESULTS}"):
        push_figures(MODEL, [run], RESULTS)
    push_results(RESULTS, [run])
    shutil.rmtree(run)
    write_run(Path("runs"), "one", 2, n=20)
    with pytest.raises(HubError, match=f"{RESULTS} does not hold the run in .*one; publish it by"):
        push_figures(MODEL, [run], RESULTS)
    write_run(Path("runs"), "two", 2, n=20)
    with pytest.raises(BadOption, match=r"runs of avbench--one, avbench--two; give runs of the model in org/model"):
        push_figures(MODEL, [Path("runs")], RESULTS)
    with pytest.raises(HubError, match="answers 404 for org/none"):
        push_figures("org/none", [run], RESULTS)
    assert (hub.heads[f"model/{MODEL}"], "model/org/none" in hub.heads) == (before, False)


def test_runs_that_are_none_or_one_too_many_or_not_as_recorded_are_not_published(hub: HubServer, run: Path) -> None:
    Path("empty").mkdir()
    with pytest.raises(IncompleteRun, match="no finished run in empty; run `avbench evaluate` first"):
        push_results(RESULTS, [Path("empty")])
    shutil.copytree(run, "copy")
    with pytest.raises(DataError, match="runs of one model on one track; keep one of them"):
        push_results(RESULTS, [run, Path("copy")])
    shutil.copy(write_run(Path("more"), "two", 2, n=20) / "rows.parquet", run)
    with pytest.raises(DataError, match=r"not the file that its run\.json pins"):
        push_results(RESULTS, [run])
    assert hub.heads == {}


PUSHES: dict[str, Callable[[Path], str]] = {
    "push": lambda run: push_results(RESULTS, [run]),
    "card": lambda run: push_figures(MODEL, [run], RESULTS),
}


@pytest.mark.parametrize("name", PUSHES)
def test_what_goes_wrong_has_a_name_and_publishes_nothing(
    hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    hub.create("model", MODEL)
    push_results(RESULTS, [run, write_run(Path("runs"), "two", 2, n=20)])
    before, place = dict(hub.heads), {"push": f"/api/datasets/{RESULTS}", "card": f"/api/models/{MODEL}"}[name]
    for status, said in ((429, "429.*repeat the command"), (500, "500"), (403, "answers 403"), (412, "someone else")):
        hub.broken = {f"{place}/commit": status}
        with pytest.raises(HubError, match=said):
            PUSHES[name](run)
    hub.broken = {}
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="check the network"):
        PUSHES[name](run)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.delenv("HF_TOKEN")
    hub.seen = []
    words = {"push": ["push", "--repo", RESULTS, "--results", run], "card": ["card", MODEL, run, "--results", RESULTS]}
    refused = avbench_hub(*words[name])
    assert (refused.exit_code, refused.stderr.split(";")[0]) == (2, "HubError: nobody is logged in to the Hub")
    assert (hub.seen, hub.heads) == ([], before)

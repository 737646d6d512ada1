"""Building and serving the site: whole or not at all, from sound runs only, for this machine only."""

from __future__ import annotations

import http.client
import json
import threading
from pathlib import Path

import pytest
from site_runs import ATTACKS, SIZE, Page, sha, write_run

from avbench.errors import AvbenchError, BadOption, DataError, RunConflict
from avbench.site import MARKER, build
from avbench.site.server import open_server


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    write_run(tmp_path / "results", "weak")
    for name in ("one", "two"):
        build([tmp_path / "results"], tmp_path / name)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).rglob("*.html")} for name in ("one", "two"))
    assert one == two


def test_a_site_replaces_a_site_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert build([], out) == out / "index.html"
    (out / "stale.html").write_text("old", encoding="utf-8")
    build([], out)
    assert not (out / "stale.html").exists()
    (out / MARKER).unlink()
    with pytest.raises(RunConflict, match="holds no site"):
        build([], out)
    assert (out / "index.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_build_leaves_the_old_site(tmp_path: Path) -> None:
    build([], tmp_path / "out")
    before = (tmp_path / "out" / "index.html").read_bytes()
    write_run(tmp_path / "results", "bad", model__id="../../escape")
    with pytest.raises(DataError):
        build([tmp_path / "results"], tmp_path / "out")
    assert (tmp_path / "out" / "index.html").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model__id": "../evil"}, DataError),
        ({"model__id": "Upper"}, DataError),
        ({"model__id": ".."}, DataError),
        ({"model__id": "a\n"}, DataError),
        ({"suite__name": "a/b"}, DataError),
        ({"dataset__name": "../synthav"}, DataError),
        ({"run": "x" * 64}, DataError),
        ({"dataset__size": 100}, DataError),
        ({"dataset__evaluated": SIZE - 1}, DataError),
        ({"rows_sha256": sha("other")}, DataError),
        ({"provenance__created": "yesterday"}, DataError),
        ({"cells": []}, DataError),
        ({"numerics__x": float("nan")}, DataError),
        ({"protocol": 99}, AvbenchError),
    ],
)
def test_a_bad_record_is_a_named_error(tmp_path: Path, changes: dict[str, object], error: type[Exception]) -> None:
    write_run(tmp_path / "results", "bad", **changes)
    with pytest.raises(error):
        build([tmp_path / "results"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "results", "done")
    write_run(tmp_path / "results", "half", rows_sha256=None)
    build([tmp_path / "results"], tmp_path / "out")
    assert "half" in capsys.readouterr().err
    assert {path.stem for path in (tmp_path / "out" / "models").iterdir()} == {"avbench--done"}


def test_a_shorter_run_never_displaces_a_longer_one(tmp_path: Path) -> None:
    write_run(tmp_path / "full", "one", provenance__created="2026-01-01T00:00:00+00:00")
    write_run(tmp_path / "short", "one", n=SIZE // 2, provenance__created="2026-02-02T00:00:00+00:00")
    for order in (["full", "short"], ["short", "full"]):
        build([tmp_path / name for name in order], tmp_path / "out")
        [row] = json.loads(Page(tmp_path / "out" / "lb" / "synthav" / "cvpr21-attack.html").data)["rows"]
        assert row[-1] == "ranked"


def test_a_unimodal_reference_is_shown_and_never_ranks(tmp_path: Path) -> None:
    write_run(tmp_path / "results", "both")
    write_run(tmp_path / "results", "ears", model__reference="unimodal-audio")
    build([tmp_path / "results"], tmp_path / "out")
    rows = json.loads(Page(tmp_path / "out" / "lb" / "synthav" / "cvpr21-attack.html").data)["rows"]
    assert [(row[0] is not None, row[-1]) for row in rows] == [(True, "ranked"), (False, "partial")]
    assert rows[1][-2] == "reference"


def test_what_differs_never_shares_a_board(tmp_path: Path) -> None:
    results = tmp_path / "results"
    write_run(results, "one")
    write_run(results, "two", suite__version=2)
    write_run(results, "three", dataset__lock_sha256=sha("another lock"))
    write_run(results, "four", attacks=list(ATTACKS[:2]))
    build([results], tmp_path / "out")
    boards = sorted((tmp_path / "out" / "lb" / "synthav").iterdir())
    assert [len(json.loads(Page(path).data)["rows"]) for path in boards] == [1, 1, 1, 1]
    assert "cvpr21-attack@2" in (tmp_path / "out" / "lb" / "synthav" / "cvpr21-attack.html").read_text(encoding="utf-8")


def test_a_folder_without_results_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        build([tmp_path / "nothing"], tmp_path / "out")


def test_serving_stays_on_this_machine_inside_the_folder(tmp_path: Path) -> None:
    site = build([], tmp_path / "site").parent
    with open_server(site, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        answers = {}
        for path in ("/", "/lb/ave/tian2021-table5.html", "/lb/", "/../results/", "/%2e%2e/results/x"):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
            connection.request("GET", path)
            answers[path] = connection.getresponse().status
            connection.close()
        server.shutdown()
    assert list(answers.values()) == [200, 200, 404, 404, 404]


def test_serving_nothing_is_a_named_error(tmp_path: Path) -> None:
    site = build([], tmp_path / "site").parent
    with pytest.raises(BadOption, match="holds no site"):
        open_server(tmp_path, 0)
    with open_server(site, 0) as server, pytest.raises(BadOption, match="port"):
        open_server(site, server.server_port)

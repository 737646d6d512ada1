"""Whatever a stranger writes into graph.json, it is refused by a named error, in little time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from graph_hostile import CONTENTS, REASONS, raw
from graph_models import CLASSES, SMALLEST, Case, Kitchen, card
from safetensors.torch import load_file

from avbench.errors import AvbenchError, GraphError, NonFiniteWeights
from avbench.graph.load import build_graph
from avbench.graph.pack import pack
from avbench.graph.read import GRAPH, WEIGHTS, Graph, read_graph

SCRIPT = Path(__file__).with_name("graph_hostile.py")
RAW = sorted(raw({"format": "avbench-graph@1", "classes": CLASSES, "nodes": [{"args": []}]}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("kitchen")
    pack(Case("kitchen", lambda: Kitchen(SMALLEST), SMALLEST).model(), card(SMALLEST), made)
    return made


def apart(folder: Path, cwd: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run the script in a process that may die without harm."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), str(SCRIPT.parent.parent)])}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{done.returncode} at {lines[-1:]}: {done.stderr[-3000:]}"
    return lines


@pytest.fixture(scope="module")
def met(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    lines = apart(folder, tmp_path_factory.mktemp("empty"), "cases")
    return {line["name"]: line for line in lines if "error" in line}


@pytest.mark.parametrize("name", [*CONTENTS, *RAW])
def test_it_is_refused_in_bounded_time_and_memory(met: dict[str, dict[str, Any]], name: str) -> None:
    line = met[name]
    assert line["error"] == "GraphError"
    assert REASONS[name] in line["message"], "and for its own reason"
    assert line["message"].isascii()
    assert line["seconds"] < 5
    assert line["bytes"] < 256 * 2**20


@pytest.mark.slow
def test_no_mutation_of_a_graph_crashes_the_loader(folder: Path, tmp_path: Path) -> None:
    (line,) = apart(folder, tmp_path, "fuzz", "40")
    assert line["refused"] > 50
    assert line["none"] > 0, "some changes are harmless, so what is computed is fuzzed too"


def read(folder: Path) -> tuple[Graph, dict[str, torch.Tensor]]:
    return read_graph(folder / GRAPH)[0], load_file(folder / WEIGHTS)


def test_weights_that_the_graph_does_not_name_are_refused(folder: Path) -> None:
    graph, state = read(folder)
    name = next(iter(state))
    for wrong in (state | {"more": torch.zeros(1)}, {k: v for k, v in state.items() if k != name}):
        with pytest.raises(GraphError, match="the graph and its weights differ"):
            build_graph(graph, wrong)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(folder: Path, value: float) -> None:
    graph, state = read(folder)
    name = next(k for k, v in state.items() if v.is_floating_point())
    state[name].view(-1)[-1] = value
    with pytest.raises(NonFiniteWeights, match=name):
        build_graph(graph, state)


def test_weights_of_another_kind_or_shape_are_refused(folder: Path) -> None:
    graph, state = read(folder)
    name = next(k for k, v in state.items() if v.is_floating_point() and v.dim() > 1)
    for wrong in (state[name].half(), state[name][:1], state[name].flatten(), state[name].double()):
        with pytest.raises(GraphError):
            build_graph(graph, state | {name: wrong.contiguous()})


def test_running_a_graph_changes_no_weight(folder: Path) -> None:
    model = build_graph(*read(folder))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(torch.ones(2, *SMALLEST.shape("audio")), torch.ones(2, *SMALLEST.shape("video")))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_batch_of_a_new_size_is_checked_before_anything_is_computed(folder: Path) -> None:
    model = build_graph(*read(folder))
    with pytest.raises(ValueError, match="the audio is"):
        model.encode_audio(torch.zeros(2, 7))
    content = json.loads((folder / GRAPH).read_text())
    content["nodes"].append(
        {"op": "aten.zeros.default", "args": [[{"batch": 2**24}, {"batch": 1}]], "kwargs": {"dtype": {"dtype": "bool"}}}
    )
    content["nodes"].append({"op": "aten.any.default", "args": [{"node": len(content["nodes"]) - 1}]})
    content["nodes"].append({"op": "aten.add.Tensor", "args": [content["output"], {"node": len(content["nodes"]) - 1}]})
    content["output"] = {"node": len(content["nodes"]) - 1}
    (folder / "square.json").write_text(json.dumps(content))
    squared = build_graph(read_graph(folder / "square.json")[0], read(folder)[1])
    with pytest.raises(GraphError, match=r"node \d+ .* elements"):
        squared(torch.zeros(9, *SMALLEST.shape("audio")), torch.zeros(9, *SMALLEST.shape("video")))


def test_a_link_a_folder_a_pipe_and_nothing_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(folder / GRAPH)
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    for name in ("link", "folder", "pipe", "nothing", "x" * 300):
        with pytest.raises(AvbenchError):
            read_graph(tmp_path / f"{name}.json")

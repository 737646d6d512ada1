"""Whatever a stranger puts into a weights file, it is refused by a named error, in little time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from graph_hostile import CONTENTS, raw
from hostile_files import HOSTILE, SAYS, SHORT, STATE, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from test_sandbox_hostile import DEEDS, ERRORS
from torch import Tensor

from avbench.checkpoint import read_checkpoint
from avbench.datasets.cards import read_card
from avbench.errors import AvbenchError, CheckpointError
from avbench.models import ARCHITECTURES, build

SCRIPT = Path(__file__).with_name("hostile_files.py")
CASES = [
    pytest.param(kind, name, marks=pytest.mark.slow if kind == "safetensors" else ())
    for kind in HOSTILE
    if kind != "truncated"
    for name in HOSTILE[kind]
]
GRAPHS = [*CONTENTS, *raw({"format": "", "nodes": [{"args": []}]})]
SECONDS, BYTES = 10, 256 << 20
DOCS = Path(__file__).resolve().parents[1] / "docs" / "submitting.md"
pytestmark = pytest.mark.filterwarnings("ignore")


Met = Callable[[str], dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> Met:
    """What became of every file of a kind; each kind is opened in a process that may die without harm."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), str(SCRIPT.parent.parent)])}

    @cache
    def of(kind: str) -> dict[str, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), kind], cwd=tmp_path_factory.mktemp(kind), env=environment,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0, f"{done.returncode} at {lines[-1:]}: {done.stderr[-3000:]}"
        return {line["name"]: line for line in lines if "error" in line}

    return of


@pytest.mark.parametrize(("kind", "name"), CASES, ids=lambda part: str(part))
def test_it_is_refused_in_bounded_time_and_memory(met: Met, kind: str, name: str) -> None:
    line, (_, error, reason) = met(kind)[name], HOSTILE[kind][name]
    assert line["error"] == error, line["message"]
    assert reason in line["message"], "and for its own reason"
    assert line["message"].isprintable()
    assert len(line["message"]) < 1000
    assert line["seconds"] < SECONDS
    assert line["bytes"] < BYTES
    assert not line["left"], "nothing was written, and no canary"


@pytest.mark.slow
def test_how_many_were_tried_and_how_many_held(met: Met, capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for kind, cases in HOSTILE.items():
        assert set(met(kind)) == set(cases)
        held = [
            name
            for name, line in met(kind).items()
            if line["error"] == cases[name][1]
            and not line["left"]
            and line["seconds"] < SECONDS
            and line["bytes"] < BYTES
        ]
        assert len(held) == len(cases)
        told.append(f"{kind}: {len(cases)} tried, {len(held)} held")
    checkpoints, safetensors, exported, _ = map(len, HOSTILE.values())
    behaviors = len(DEEDS) + len(ERRORS) + 6
    for what in (
        f"{behaviors} behaviors", f"{checkpoints} checkpoints", f"{safetensors} safetensors files",
        f"{exported} exported programs", f"{len(GRAPHS)} graphs",
    ):  # fmt: skip
        assert what in " ".join(DOCS.read_text().split()), "the page says how many"
    with capsys.disabled():
        print("\n" + "; ".join(told) + f"; graph.json: {len(GRAPHS)} (tests/test_graph_hostile.py)")


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder", "device", "nothing", "empty", "long name"])
def test_what_is_no_file_is_refused_and_does_not_hang(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    good = tmp_path / f"good{suffix}"
    good.write_bytes(save(STATE, SAYS) if suffix == ".safetensors" else saved(STATE))
    if "link" in kind:
        path.symlink_to(good if kind == "link" else tmp_path / "nowhere")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "long name":
        path = tmp_path / f"{'x' * 300}{suffix}"
    started = time.monotonic()
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert time.monotonic() - started < 1
    assert read_checkpoint(good).state.keys() == STATE.keys()


def test_a_file_larger_than_the_cap_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    with path.open("wb") as file:
        file.truncate((8 << 30) + 1)
    with pytest.raises(CheckpointError, match="8589934592"):
        read_checkpoint(path)


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
          torch.uint8, torch.bool]  # fmt: skip


def tensor(dtype: torch.dtype, shape: list[int], layout: str) -> Tensor:
    made = torch.arange(4096).remainder(2 if dtype == torch.bool else 100).to(dtype)
    count = torch.Size(shape).numel()
    if layout == "strided":
        return made[3 : 3 + 2 * count : 2].reshape(shape) if count else made[:0].reshape(shape)
    found = made[:count].reshape(shape)
    return found.transpose(0, -1) if layout == "transposed" and shape else found


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.dictionaries(
        st.text("abc.é ", min_size=1, max_size=8),
        st.tuples(
            st.sampled_from(DTYPES),
            st.lists(st.integers(0, 5), max_size=4),
            st.sampled_from(["plain", "strided", "transposed"]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_whatever_plain_tensors_torch_saves_are_read_with_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any], shared: bool
) -> None:
    folder = tmp_path_factory.mktemp("saved")
    state = {name: tensor(*about) for name, about in content.items()}
    if shared:
        state["shared"] = (
            next(iter(state.values())).view(-1)[1:]
            if next(iter(state.values())).is_contiguous()
            else STATE["classifier.bias"][2:5]
        )
    state["parameter"] = torch.nn.Parameter(torch.ones(2))
    (folder / "modern.pt").write_bytes(saved(state))
    (folder / "legacy.pt").write_bytes(saved(state, False))
    (folder / "safe.safetensors").write_bytes(
        save({name: one.detach().clone().contiguous() for name, one in state.items()})
    )
    for path in folder.iterdir():
        read = read_checkpoint(path).state
        assert read.keys() == state.keys()
        for name, wanted in state.items():
            assert (read[name].dtype, read[name].shape) == (wanted.dtype, wanted.shape)
            assert torch.equal(read[name], wanted)


@pytest.mark.parametrize("name", ARCHITECTURES.names())
def test_every_architecture_tells_its_shapes_without_memory(name: str) -> None:
    card = read_card("synthav")
    with torch.random.fork_rng(devices=[]):
        real = build(name, len(card.classes), card.spec, {}).state_dict()
        with torch.device("meta"):
            measured = build(name, len(card.classes), card.spec, {}).state_dict()
    assert {key: tensor.shape for key, tensor in measured.items()} == {key: one.shape for key, one in real.items()}
    assert any(tensor.is_meta for tensor in measured.values())


HONEST = {".safetensors": save(SHORT), ".pt": saved(SHORT), "-legacy.pt": saved(SHORT, False)}


@pytest.mark.parametrize("examples", [300, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", HONEST)
def test_no_change_of_bytes_gives_more_than_a_named_error(suffix: str, examples: int, tmp_path: Path) -> None:
    path, data, started, seen = (
        tmp_path / f"file{suffix}",
        HONEST[suffix],
        time.process_time(),
        {"none": 0, "refused": 0},
    )

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, len(data) - 1), st.binary(max_size=9), st.integers(0, 9)), min_size=1, max_size=4
        )
    )
    def change(places: list[tuple[int, bytes, int]]) -> None:
        if time.process_time() - started > 10:
            return
        content = data
        for place, new, old in places:
            content = content[:place] + new + content[place + old :]
        path.write_bytes(content)
        try:
            state = read_checkpoint(path).state
        except AvbenchError as error:
            assert isinstance(error, CheckpointError)
            assert str(error).isprintable()
            seen["refused"] += 1
            return
        seen["none"] += 1
        assert sum(one.numel() for one in state.values()) <= len(content), "no more numbers than bytes"
        if suffix == ".safetensors":
            theirs = load(content)
            assert all(torch.equal(one.nan_to_num(), theirs[name].nan_to_num()) for name, one in state.items())

    change()
    assert min(seen.values()) > 10, "some changes are harmless, others are found"


def header(draw: Any) -> Any:
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-9, 2**64),
        st.floats(),
        st.text(max_size=4),
        st.sampled_from(["F32", "U8", "BOOL"]),
    )
    entries = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "U8", "BOOL", "F8_E4M3"]) | leaves,
            "shape": st.lists(st.integers(-1, 9) | leaves, max_size=4) | leaves,
            "data_offsets": st.lists(st.integers(-1, 40) | leaves, max_size=3) | leaves,
        }
    )
    return draw(st.dictionaries(st.sampled_from(["a", "b", "__metadata__", ""]), entries | leaves, max_size=3) | leaves)


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(st.composite(header)(), st.integers(0, 40))
def test_no_header_gives_more_than_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, about: Any, rest: int
) -> None:
    words = json.dumps(about).encode()
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    path.write_bytes(len(words).to_bytes(8, "little") + words + bytes(rest))
    try:
        state = read_checkpoint(path).state
    except CheckpointError as error:
        assert str(error).isprintable()
    else:
        assert sum(one.numel() * one.element_size() for one in state.values()) == rest

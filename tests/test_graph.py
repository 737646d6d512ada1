"""A packed model is the model: the same bits, forward and backward, and what is not attacked is computed once."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from graph_models import CASES, CLASSES, OTHERS, SMALLEST, Case, Recurrent, card, clips
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import avbench
from avbench import files
from avbench.checkpoint import read_checkpoint
from avbench.cli import main
from avbench.errors import BadOption, GraphError
from avbench.graph.load import build_graph
from avbench.graph.module import GraphModel
from avbench.graph.operators import OPERATORS
from avbench.graph.pack import pack
from avbench.graph.read import GRAPH, WEIGHTS, read_graph
from avbench.options import RunOptions
from avbench.submission import find_candidate
from avbench.types import MODALITIES, AVInput, TwoStageModel, modalities_of


@cache
def packed(case: Case) -> tuple[nn.Module, GraphModel]:
    """A model and what another machine makes of its two files."""
    model = case.model()
    with TemporaryDirectory() as folder:
        pack(model, card(case.spec), Path(folder))
        graph, _ = read_graph(Path(folder) / GRAPH)
        return model, build_graph(graph, read_checkpoint(Path(folder) / WEIGHTS).state)


OFTEN = {"avnet", "early", "melspectrogram"}  # exporting the others takes seconds each
EVERY = [pytest.param(case, id=case.name, marks=() if case.name in OFTEN else pytest.mark.slow) for case in CASES]


def gradients(model: nn.Module, inputs: AVInput) -> list[Tensor]:
    leaves = [clip.requires_grad_() for clip in inputs]
    logits = model(*leaves)
    weights = torch.linspace(-1, 1, logits.numel()).view_as(logits)
    found = torch.autograd.grad((logits * weights).sum(), leaves, allow_unused=True)
    return [logits.detach(), *(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True))]


@pytest.mark.parametrize("case", EVERY)
class TestEveryModel:
    @pytest.mark.parametrize("batch", [1, 2, 5])
    def test_has_the_same_bits_packed_in_logits_and_both_gradients(self, case: Case, batch: int) -> None:
        seen = [gradients(model, clips(case.spec, batch, seed=7)) for model in packed(case)]
        for eager, ours in zip(*seen, strict=True):
            assert torch.equal(eager, ours)
        assert any(g.abs().sum() for g in seen[1][1:])

    def test_keeps_the_contract_of_two_stages(self, case: Case) -> None:
        model, ours = packed(case)
        assert isinstance(ours, TwoStageModel)
        assert modalities_of(ours) == modalities_of(model)
        a, b = clips(case.spec, 3), clips(case.spec, 3, seed=1)
        with torch.no_grad():
            parts = [ours.encode_audio(a.audio), ours.encode_video(a.video)]
            assert torch.equal(ours.fuse(*parts), ours(*a))
            for part, encode, clip, other in zip(parts, (ours.encode_audio, ours.encode_video), a, b, strict=True):
                assert len(part) == 3
                beside = encode(torch.cat([clip[:1], other[1:]]))
                assert torch.equal(part[0], beside[0]), "a row is one sample's own"


class Watched(TorchDispatchMode):
    """Count convolutions that are really computed, and record how factors lie in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = 0
        self.factors: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.convolutions += "convolution" in str(func)
        if func is torch.ops.aten.mul.Tensor:
            self.factors += [arg.stride() for arg in args if isinstance(arg, Tensor)]
        return func(*args, **kwargs or {})


def test_what_hangs_on_one_stream_is_not_computed_again_with_the_other() -> None:
    case = next(case for case in CASES if case.name == "avnet")
    _, ours = packed(case)
    inputs = clips(case.spec, 2)
    with torch.no_grad():
        made = []
        for part, given in ((ours.encode_audio, inputs[:1]), (ours.encode_video, inputs[1:])):
            with Watched() as audio_or_video:
                made.append(part(*given))
            assert audio_or_video.convolutions == (8 if part == ours.encode_audio else 20)
        with Watched() as fusion:
            ours.fuse(*made)
        assert fusion.convolutions == 0


def test_values_that_meet_at_many_places_travel_side_by_side() -> None:
    _, ours = packed(next(case for case in OTHERS if case.name == "early"))
    inputs = clips(SMALLEST, 3)
    assert ours.encode_video(inputs.video).shape == (3, 24)


@pytest.mark.slow
def test_what_goes_from_one_stage_to_the_next_lies_in_memory_as_it_did() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Recurrent(nn.GRU).net
            self.heads = nn.ModuleList(nn.Linear(32, CLASSES) for _ in range(2))

        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            steps = self.net(audio.unflatten(1, (-1, 50)))[0]  # (batch, steps, 32), in memory (steps, batch, 32)
            scale = video.mean((1, 2, 3, 4))[:, None, None]
            return (self.heads[0](steps * scale) + self.heads[1](steps.cos() * scale)).mean(1)

    model, ours = packed(Case("steps", Steps, SMALLEST))
    seen = []
    for one in (model, ours):
        with torch.no_grad(), Watched() as watched:
            one(*clips(SMALLEST, 3))
        seen.append([stride for stride in watched.factors if len(stride) == 3])
    assert ours.encode_audio(clips(SMALLEST, 3).audio).shape == (3, 2 * 20 * 32)
    assert seen[0] == seen[1]
    assert (32, 96, 1) in seen[0]


class Refused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(CLASSES))
        self.scale = nn.Parameter(torch.ones(CLASSES))

    def scores(self, audio: Tensor, video: Tensor) -> Tensor:
        return audio[:, :CLASSES] * video.mean((1, 2, 3, 4))[:, None]


class Branches(Refused):
    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        x = self.scores(audio, video)
        if x.sum() > 0:  # refused
            x = -x
        return x


class Item(Refused):
    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        x = self.scores(audio, video)
        return x * max(x.mean().item(), 0.1)  # refused


class Mixes(Refused):
    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        x = self.scores(audio, video)
        x = x - x.mean(dim=0)  # refused
        return x * 2


class MixesRarely(Refused):
    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        x = self.scores(audio, video)
        gate = (x[:, :1] - 1e6).relu()
        return x + gate.flip(0)  # refused


class Softmax(Refused):
    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        return self.scores(audio, video).softmax(dim=0)  # refused


class InPlace(Refused):
    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        x = self.scores(audio, video)
        self.seen.add_(1)  # refused
        return x + self.seen


class InPlaceParameter(Refused):
    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        x = self.scores(audio, video)
        with torch.no_grad():
            self.scale.mul_(0.5)  # refused
        return x * self.scale


@torch.library.custom_op("avbench_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return 2 * x


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Custom(Refused):
    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        x = self.scores(audio, video)
        return self.helped(x)

    def helped(self, x: Tensor) -> Tensor:
        return twice(x)  # refused


class Random(Refused):
    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        x = self.scores(audio, video)
        return x + torch.randn_like(x)  # refused


class Dropout(Refused):
    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        x = self.scores(audio, video)
        return nn.functional.dropout(x, 0.5, training=True)  # refused


class Detached(Refused):
    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        x = self.scores(audio, video)
        return x.detach() + x  # refused


REASONS = {
    Branches: "control flow depends on the data", Item: "control flow depends on the data",
    Mixes: "one sample changes the answer on another", MixesRarely: "one sample changes the answer on another",
    Softmax: "one sample changes the answer on another",
    InPlace: "changes seen in place", InPlaceParameter: "changes scale in place",
    Custom: "needs avbench_tests.twice.default, which is not in the table", Random: "needs aten.randn_like.default",
    Dropout: "drops out values|needs aten.*dropout", Detached: "needs aten.detach.default",
}  # fmt: skip


@pytest.mark.parametrize("kind", REASONS, ids=lambda kind: kind.__name__)
def test_what_cannot_be_packed_is_refused_with_the_reason_and_the_line(kind: type[nn.Module], tmp_path: Path) -> None:
    source, first = inspect.getsourcelines(kind)
    line = first + next(i for i, text in enumerate(source) if "# refused" in text)
    with pytest.raises(GraphError, match=REASONS[kind]) as refused:
        pack(kind(), card(SMALLEST), tmp_path)
    assert f"{__file__}:{line}:" in str(refused.value)
    assert not any(tmp_path.iterdir())


def test_a_model_of_one_batch_size_is_refused(tmp_path: Path) -> None:
    class Fixed(Refused):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return torch.stack(list(self.scores(audio, video)))

    with pytest.raises(GraphError, match="batches of any size"):
        pack(Fixed(), card(SMALLEST), tmp_path)


def test_no_operator_of_the_table_changes_a_tensor() -> None:
    changing = [name for name, run in OPERATORS.items() if getattr(run, "_schema", None) and run._schema.is_mutable]
    assert not changing
    assert {name for name, run in OPERATORS.items() if torch.Tag.nondeterministic_seeded in getattr(run, "tags", ())} <= {
        "aten.scaled_dot_product_attention.default", "aten.lstm.input", "aten.gru.input", "aten.rnn_relu.input",
        "aten.rnn_tanh.input",
    }  # fmt: skip


BASELINE = "avbench--synthav-concat"


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "model"
    result = CliRunner().invoke(main, ["pack", BASELINE, "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("part", ["", pytest.param(GRAPH, marks=pytest.mark.slow)])
def test_a_packed_submission_has_the_rows_of_the_submission(baseline: Path, tmp_path: Path, part: str) -> None:
    rows = []
    for model in (BASELINE, str(baseline / part)):
        options = RunOptions(limit=6, output_dir=tmp_path / "runs")
        rows.append(pd.read_parquet(avbench.evaluate_model(model, suite="quick", options=options) / "rows.parquet"))
    pd.testing.assert_frame_equal(*rows)


def test_a_graph_is_identified_by_both_of_its_files(baseline: Path) -> None:
    candidate, found = find_candidate(str(baseline))
    assert found.name == "synthav"
    assert candidate.identity == {
        "architecture": "graph",
        "arguments": {"graph_sha256": files.sha256_file(baseline / GRAPH)},
        "weights_sha256": files.sha256_file(baseline / WEIGHTS),
    }


def test_a_graph_of_another_dataset_or_with_an_architecture_is_refused(baseline: Path) -> None:
    with pytest.raises(GraphError, match="was packed for 'synthav'"):
        find_candidate(str(baseline), "avmnist")
    with pytest.raises(BadOption):
        find_candidate(str(baseline), architecture="avnet")


FILE = """
from torch import nn
from beside import WIDTH

class Model(nn.Module):
    def __init__(self, classes, spec):
        super().__init__()
        self.a, self.v = nn.Linear(spec.samples, WIDTH), nn.LazyLinear(WIDTH)
        self.head = nn.Linear(WIDTH, classes)
    def forward(self, audio, video):
        return self.head((self.a(audio) * self.v(video.flatten(1))).tanh())

def make(classes, spec):
    import torch
    model = Model(classes, spec)
    with torch.no_grad():
        model(torch.zeros(1, spec.samples), torch.zeros(1, *spec.shape("video")))
    return model

def wrong():
    return 3
"""


def test_the_command_packs_an_authors_own_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "beside.py").write_text("WIDTH = 3")
    with torch.random.fork_rng():
        result = CliRunner().invoke(
            main, ["pack", f"{tmp_path / 'mine.py'}:make", "--dataset", "synthav", "--out", str(tmp_path / "out")]
        )
    assert result.exit_code == 0, result.output
    candidate, found = find_candidate(str(tmp_path / "out"))
    assert candidate.module(*clips(found.spec, 2)).shape == (2, len(found.classes))
    for what, reason in (
        ("mine.py:wrong", "makes a int"),
        ("mine.py:none", "no attribute"),
        ("no.py:make", "No such file"),
    ):
        result = CliRunner().invoke(
            main, ["pack", str(tmp_path / what), "--dataset", "synthav", "--out", str(tmp_path / "out")]
        )
        assert (result.exit_code, reason in result.output) == (2, True), result.output
    assert set(MODALITIES) == set(modalities_of(candidate.module))


BRANCHING = """
from torch import nn

class Branching(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.last = nn.Linear(8, classes)

    def forward(self, audio, video):
        heard = audio[:, :8]
        if heard.sum() > 0:
            heard = heard + 1
        return self.last(heard)

def make(classes):
    return Branching(classes)
"""


@pytest.mark.slow
def test_an_author_reads_one_line_with_the_reason_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BRANCHING)
    words = [sys.executable, "-m", "avbench", "pack", "mine.py:make", "--out", "packed"]
    for more, named in (([], "BadOption: add --dataset"), (["--dataset", "avmnist"], "GraphError: ")):
        done = subprocess.run(
            [*words, *more], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith(named)
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert not (tmp_path / "packed").exists()
    assert "mine.py:11: if heard.sum() > 0" in done.stderr

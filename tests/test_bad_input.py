"""What users get wrong is a named error, for every registered attack; radius zero and a batch of one are no errors."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FRAMES, SAMPLES, SIDE, Wavy, make_split
from torch import Tensor, nn

import avbench
from avbench.attacks import ATTACKS
from avbench.errors import BadBudget, BadModel, BadOption, DataError, NoGradient, NonFiniteOutput
from avbench.threats import parse_threat
from avbench.threats.region import Region
from avbench.types import BOX, MODALITIES, AVInput

# The others refuse to be called, see test_tensors.py; universal at radius zero: test_universal.py.
CALLABLE = [name for name in ATTACKS.names() if name not in ("mask", "transfer", "universal")]
SHORT = {"square": "square:queries=30"}
NEEDS_ONE_LABEL = {"apgd-dlr", "apgd-t"}
BATCH = make_split(6, 3).batch(range(3))
MANY = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
XAV = "XAV:linf:0.05:linf:0.05"


def attacked(name: str = "fgsm", threat: str = XAV, model: Any = None, **changes: Any) -> AVInput:
    inputs = {"audio": BATCH.inputs.audio, "video": BATCH.inputs.video, "labels": BATCH.labels} | changes
    return avbench.attacks.get(SHORT.get(name, name))(model or Wavy(), **inputs, threat=threat)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("name", CALLABLE)
def test_a_model_without_gradient_to_a_modality_is_an_error_unless_scores_suffice(name: str, modality: str) -> None:
    class Detached(Wavy):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            clips = {"audio": audio, "video": video}
            return super().forward(**clips | {modality: clips[modality].detach()})

    [other] = {*MODALITIES} - {modality}
    for threat in (XAV, f"X{modality[0].upper()}:linf:0.05"):
        if ATTACKS.get(name).needs == "gradients":
            with pytest.raises(NoGradient, match=f"no gradient reaches the {modality};"):
                attacked(name, threat, Detached())
        else:
            clips = attacked(name, threat, Detached())
            assert not torch.equal(getattr(clips, modality), getattr(BATCH.inputs, modality))
    spared = attacked(name, f"X{other[0].upper()}:linf:0.05", Detached())
    assert not torch.equal(getattr(spared, other), getattr(BATCH.inputs, other))


@pytest.mark.parametrize("threat", ["XA:linf:0", "XV:l2:0", "XAV:l2:0:linf:0", "XAV:linf:0:linf-normalized:0"])
@pytest.mark.parametrize("name", CALLABLE)
def test_radius_zero_gives_the_clean_clips(name: str, threat: str) -> None:
    assert all(torch.equal(one, clean) for one, clean in zip(attacked(name, threat), BATCH.inputs, strict=True))


@pytest.mark.parametrize("name", CALLABLE)
def test_a_batch_of_one_gives_the_clip_of_a_batch_of_three(name: str) -> None:
    alone = attacked(name, audio=BATCH.inputs.audio[:1], video=BATCH.inputs.video[:1], labels=BATCH.labels[:1])
    for one, three, clean in zip(alone, attacked(name), BATCH.inputs, strict=True):
        assert not torch.equal(three[:1], clean[:1])
        torch.testing.assert_close(one, three[:1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CALLABLE)
def test_several_labels_are_attacked_or_refused_with_what_to_use(name: str) -> None:
    if name in NEEDS_ONE_LABEL:
        with pytest.raises(BadOption, match="use apgd-ce"):
            attacked(name, labels=MANY)
    else:
        threat = "XAV:linf:0.002:linf:0.002"  # so small that the loss is almost linear
        clips = attacked(name, threat, labels=MANY)
        Region(parse_threat(threat), BATCH.inputs).check(clips, BATCH.ids, name)
        loss = [nn.functional.binary_cross_entropy_with_logits(Wavy()(*c), MANY) for c in (BATCH.inputs, clips)]
        assert loss[1] > loss[0]


# The largest radii that the toy clips allow.
WIDEST = {"XA:l2": 2 * math.sqrt(SAMPLES), "XV:l2": math.sqrt(FRAMES * 3 * SIDE**2), "XA:linf": 2.0, "XV:linf": 1.0}


@pytest.mark.parametrize("kind", WIDEST)
def test_a_radius_may_fill_the_box_and_no_more(kind: str) -> None:
    clips = attacked("fgsm", f"{kind}:{WIDEST[kind]!r}")
    assert all(low <= clip.min() and clip.max() <= high for clip, (low, high) in zip(clips, BOX.values(), strict=True))
    for radius in (1.001 * WIDEST[kind], -0.1, -math.inf, math.inf, math.nan):
        with pytest.raises(BadBudget, match=r"larger than (its|the) whole range|at least 0"):
            attacked("fgsm", f"{kind}:{radius!r}")


@pytest.mark.parametrize("threat", ["XA", "standard", 0.006, None, "XA:linf:0.006:linf:0.006", "XAV:linf:0.006"])
def test_a_threat_of_another_form_is_refused(threat: Any) -> None:
    with pytest.raises(BadBudget, match=r"is not a threat model; write|needs two budgets"):
        attacked(threat=threat)


def test_a_threat_may_not_promise_what_the_attack_breaks() -> None:
    for access in ("black-box", "transfer"):
        with pytest.raises(BadOption, match="does not grant"):
            attacked("pgd", f"XA:linf:0.05@{access}")
    attacked("square", "XA:linf:0.05@black-box")


def one_wrong(clip: Tensor, value: float) -> Tensor:
    changed = clip.clone()
    changed[2].view(-1)[-1] = value
    return changed


AUDIO, VIDEO, LABELS = *BATCH.inputs, BATCH.labels
IN_FORM: list[tuple[dict[str, Any], str]] = [
    ({"audio": AUDIO.numpy()}, "audio must be a torch.Tensor, not ndarray"),
    ({"video": None}, "video must be a torch.Tensor"),
    ({"labels": [0, 1, 2]}, "labels must be a torch.Tensor, not list"),
    ({"audio": AUDIO[0]}, r"audio must be float32 \(batch, samples\), not empty; it is float32 \(24,\)"),
    ({"audio": AUDIO[:, None]}, r"it is float32 \(3, 1, 24\)"),
    ({"audio": AUDIO.double()}, "it is float64"),
    ({"audio": AUDIO.half()}, "it is float16"),
    ({"audio": (AUDIO * 32768).short()}, "it is int16"),
    ({"audio": AUDIO[:, :0]}, r"it is float32 \(3, 0\)"),
    ({"video": VIDEO[:, 0]}, r"video must be float32 \(batch, frames, 3, height, width\)"),
    ({"video": VIDEO[:, :, :1]}, r"it is float32 \(3, 2, 1, 3, 3\)"),
    ({"video": (VIDEO * 255).byte()}, "it is uint8"),
    ({"audio": AUDIO[:0], "video": VIDEO[:0], "labels": LABELS[:0]}, "not empty"),
    ({"audio": AUDIO[:2]}, "2 clips of audio, 3 of video and 3 labels"),
    ({"video": VIDEO[:1]}, "3 clips of audio, 1 of video and 3 labels"),
    ({"labels": LABELS[:2]}, "3 of video and 2 labels"),
    ({"labels": LABELS.int()}, "labels must be int64 .* they are int32"),
    ({"labels": LABELS.float()}, r"they are float32 \(3,\)"),
    ({"labels": LABELS[:, None]}, r"they are int64 \(3, 1\)"),
    ({"labels": MANY.long()}, r"they are int64 \(3, 3\)"),
    ({"labels": MANY[:, :2]}, "3 of the model, not 2"),
    ({"video": VIDEO.to("meta")}, "must be on one device, not on cpu, meta"),
    ({"labels": LABELS.to("meta")}, "must be on one device"),
    ({"model": Wavy().to("meta")}, "must be on one device"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "says"), IN_FORM)
def test_tensors_of_another_form_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadOption, match=says):
        attacked(**changes)


IN_VALUE = [
    ({"audio": one_wrong(AUDIO, math.nan)}, r"sample 2: audio is NaN or outside \[-1, 1\]"),
    ({"audio": one_wrong(AUDIO, 1.0001)}, "sample 2: audio"),
    ({"audio": one_wrong(AUDIO, -math.inf)}, "sample 2: audio"),
    ({"video": one_wrong(VIDEO, -0.0001)}, r"sample 2: video is NaN or outside \[0, 1\]"),
    ({"video": one_wrong(VIDEO, 255.0)}, "sample 2: video"),
    ({"labels": torch.tensor([0, 1, 3])}, "sample 2: its label is none of the 3 classes"),
    ({"labels": torch.tensor([0, -1, 2])}, "sample 1: its label is none"),
    ({"labels": MANY / 2}, "sample 0: its labels are not all 0 or 1"),
    ({"labels": one_wrong(MANY, math.nan)}, "sample 2: its labels"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "says"), IN_VALUE)
def test_values_that_cannot_be_name_their_sample(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        attacked(**changes)


class Answers(nn.Module):
    """A model that answers what it is told."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, audio: Tensor, video: Tensor) -> Any:
        return self.answer(audio, video)


@pytest.mark.parametrize(
    ("model", "error", "says"),
    [
        (Wavy, BadModel, "instance of torch.nn.Module"),
        (lambda audio, video: audio, BadModel, "instance of torch.nn.Module"),
        ("avbench--synthav-sum", BadModel, "instance of torch.nn.Module"),
        (Answers(lambda audio, video: (audio, video)), BadModel, "logits .*, it answered tuple"),
        (Answers(lambda audio, video: audio[:, 0]), BadModel, r"it answered float32 \(3,\)"),
        (Answers(lambda audio, video: audio[:2]), BadModel, r"must answer \(3, 24\) logits, it answered \(2, 24\)"),
        (Answers(lambda audio, video: audio @ audio), BadModel, "forward failed on a batch of 3"),
        (Answers(lambda audio, video: audio / 0), NonFiniteOutput, "NaN or infinity on sample 0"),
        (Wavy().double(), BadModel, "forward failed on a batch of 3"),
    ],
)
def test_what_is_no_model_or_answers_no_logits_is_refused(model: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        attacked(model=model)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluate", "avbench--synthav-sum", "--threat", "XA:linf:-1"], "BadBudget: a radius is a number of at least 0"),
        pytest.param(["attack", "avbench--synthav-sum", "synthav/test/x", "--threat", "XV:linf:nan"], "BadBudget: a radius is a number", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_the_command_line_says_it_in_one_line(words: list[str], says: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "avbench", *words, "--output-dir", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(says)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()

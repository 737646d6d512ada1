"""`avbench attack`: attack one clip and write what came out, to be looked at and listened to."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from PIL import Image

from avbench import files
from avbench.attacks import Attack
from avbench.cells import Cell, make_clips
from avbench.checkpoint import Candidate
from avbench.datasets import Sample
from avbench.datasets.cards import Card
from avbench.datasets.decode import decode
from avbench.datasets.encoding import Clip, encode
from avbench.datasets.splits import open_split, to_batch
from avbench.device import deterministic, find_device
from avbench.errors import BadOption
from avbench.figures import spectrograms
from avbench.judge import perceptibility
from avbench.oracle import Victim
from avbench.threats import ThreatModel
from avbench.types import AVInput, InputSpec


class Answer(NamedTuple):
    """What the model says of one version of the clip."""

    version: str
    prediction: str  # class
    confidence: float  # softmax probability of it; of the sigmoid if multi-label
    confidence_in_label: float


@dataclass(frozen=True)
class Outcome:
    """All that one attack on one clip gives."""

    label: str
    answers: list[Answer]  # clean; adversarial; as 16-bit sound and 8-bit pictures; after lossy coding
    sizes: dict[str, float]  # as in avbench.judge.perceptibility


def find_clip(text: str, card: Card, label: str | None) -> Sample:
    """Read a clip: `DATASET/SPLIT/ID` of a prepared dataset, or a video file in any container that PyAV reads.

    Args:
        text: what to read.
        card: says how a file is decoded, and which classes there are.
        label: true class of a file; None takes the model's own answer (label -1 here).

    Raises:
        BadOption: if there is no such sample or class.
        BrokenClip: if the file cannot be decoded.
    """
    if label is not None and label not in card.classes:
        raise BadOption(f"{card.name} has no class {label!r}; it has {', '.join(card.classes[:20])}")
    known = -1 if label is None else card.classes.index(label)
    if Path(text).is_file():
        return Sample(Path(text).stem, known, *decode(Path(text), card.spec))
    parts = text.split("/")
    if len(parts) != 3 or parts[0] != card.name:
        raise BadOption(f"{text} is neither a file nor {card.name}/SPLIT/ID")
    split = open_split(card.name, parts[1])
    if parts[2] not in split.ids:
        raise BadOption(f"{card.name} {parts[1]} has no sample {parts[2]}; one is {split.ids[0]}")
    return split.stored(split.ids.index(parts[2]))


def attack_clip(
    candidate: Candidate,
    card: Card,
    sample: Sample,
    threat: ThreatModel,
    attack: Attack,
    folder: Path,
    seed: int = 0,
    device: str = "auto",
) -> Outcome:
    """Attack one clip, police the budget as in an evaluation, and write everything below `folder`.

    Written: clean.mkv and adversarial.mkv (lossless: FFV1 and PCM, of clips rounded to 8 and 16 bit),
    adversarial.mp4 (lossy: H.264 and AAC), adversarial.wav, frames/*.png, difference.png (amplified), spectrograms
    as .svg and .png.

    Raises:
        BadOption: if the dataset is multi-label and the clip has no label.
        BudgetViolation, BadModel, NonFiniteOutput: as in an evaluation.
    """
    victim = Victim(candidate.module, len(card.classes), find_device(device))
    with deterministic(victim.device):
        clean = to_batch([sample._replace(label=0) if sample.label == -1 else sample], card).to(victim.device)
        with torch.no_grad():
            logits = victim.logits(clean.inputs, {}, clean.ids)
        if sample.label == -1:
            if card.task == "multilabel":
                raise BadOption(f"{card.name} is multi-label: give the --label of the clip")
            clean.labels[:] = logits.argmax(dim=1)
        adversarial = make_clips(victim, clean, Cell(threat, attack), {}, seed)
    before, after = (_rounded(clips) for clips in (clean.inputs, adversarial))
    _write(folder, before, after, card.spec)
    versions = {"clean": clean.inputs, "adversarial": adversarial, "in 8 and 16 bit": _input(after, victim.device)}
    versions["after H.264 and AAC"] = _input(read_back(folder / "adversarial.mp4", after, card.spec), victim.device)
    label = int(clean.labels[0]) if clean.labels.dim() == 1 else int(clean.labels[0].argmax())
    answers = [_answer(name, victim, clips, label, card) for name, clips in versions.items()]
    sizes = {name: float(value[0]) for name, value in perceptibility(clean.inputs, adversarial).items()}
    spectrograms(folder / "spectrograms", {"clean": before.audio, "adversarial": after.audio}, card.sample_rate)
    return Outcome(card.classes[label], answers, sizes)


@torch.no_grad()
def _answer(version: str, victim: Victim, clips: AVInput, label: int, card: Card) -> Answer:
    logits = victim.logits(clips, {}, (version,))[0].double()
    chances = logits.sigmoid() if card.task == "multilabel" else logits.softmax(dim=0)
    best = int(logits.argmax())
    return Answer(version, card.classes[best], float(chances[best]), float(chances[label]))


def _rounded(clips: AVInput) -> Clip:
    audio = (clips.audio[0].double() * 32768).round().clamp(-32768, 32767)
    video = (clips.video[0].double() * 255).round().clamp(0, 255)
    return Clip(audio.cpu().numpy().astype(np.int16), video.cpu().numpy().astype(np.uint8))


def _input(clip: Clip, device: torch.device) -> AVInput:
    audio, video = torch.from_numpy(clip.audio)[None].float() / 32768, torch.from_numpy(clip.video)[None].float() / 255
    return AVInput(audio, video).to(device)


def _write(folder: Path, clean: Clip, adversarial: Clip, spec: InputSpec) -> None:
    encoded = encode(adversarial, spec.sample_rate)
    files.publish(folder / "adversarial.wav", lambda path: _bytes(path, encoded.audio))
    for index, frame in enumerate(encoded.frames):
        files.publish(folder / "frames" / f"{index:03d}.png", lambda path, png=frame: _bytes(path, png))  # type: ignore[misc]
    for name, clip in (("clean", clean), ("adversarial", adversarial)):
        files.publish(folder / f"{name}.mkv", lambda path, c=clip: write_video(path, c, spec, lossless=True))  # type: ignore[misc]
    files.publish(folder / "adversarial.mp4", lambda path: write_video(path, adversarial, spec, lossless=False))
    change = adversarial.video.astype(int) - clean.video
    gain = 127 / max(1, np.abs(change).max())
    strip = np.concatenate(list(128 + gain * change), axis=2).astype(np.uint8).transpose(1, 2, 0)
    files.publish(folder / "difference.png", lambda path: Image.fromarray(strip).save(path, "png"))


def _bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def write_video(path: Path, clip: Clip, spec: InputSpec, lossless: bool) -> None:
    """Write a clip as video: FFV1 and PCM in Matroska, or H.264 (crf 18) and AAC (128 kbit/s) in MP4."""
    container, video, pixels, audio = (
        ("matroska", "ffv1", "bgr0", "pcm_s16le") if lossless else ("mp4", "libx264", "yuv420p", "aac")
    )
    with av.open(str(path), "w", format=container) as out:
        options = {} if lossless else {"crf": "18"}
        pictures = out.add_stream(video, rate=Fraction(spec.fps).limit_denominator(1000), options=options)
        assert isinstance(pictures, av.VideoStream)
        pictures.height, pictures.width, pictures.pix_fmt = clip.video.shape[2], clip.video.shape[3], pixels
        sound = out.add_stream(audio, rate=spec.sample_rate)
        assert isinstance(sound, av.AudioStream)
        sound.layout = "mono"
        if not lossless:
            sound.bit_rate = 128_000
        for picture in clip.video:
            shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture.transpose(1, 2, 0)), format="rgb24")
            out.mux(pictures.encode(shown))
        out.mux(pictures.encode(None))
        heard = av.AudioFrame.from_ndarray(clip.audio[None], format="s16", layout="mono")
        heard.sample_rate, heard.pts, heard.time_base = spec.sample_rate, 0, Fraction(1, spec.sample_rate)
        for part in [*av.AudioResampler(sound.format, "mono", spec.sample_rate).resample(heard)]:
            out.mux(sound.encode(part))
        out.mux(sound.encode(None))


def read_back(path: Path, like: Clip, spec: InputSpec) -> Clip:
    """Decode a video that `write_video` wrote, frame by frame; a coder's padding at the end of the sound is dropped."""
    with av.open(str(path)) as source:
        frames = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    with av.open(str(path)) as source:
        resampler = av.AudioResampler("s16", "mono", spec.sample_rate)
        parts = [part.to_ndarray()[0] for frame in source.decode(audio=0) for part in resampler.resample(frame)]
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    sound = np.concatenate(parts).astype(np.int16)[: len(like.audio)]
    sound = np.pad(sound, (0, len(like.audio) - len(sound)))
    return Clip(sound, np.stack(frames).astype(np.uint8).transpose(0, 3, 1, 2)[: len(like.video)])

"""Evidence beside a run: chosen by a rule, made again bit for bit, inside its budget, and refused if anything differs."""

from __future__ import annotations

import io
import json
import os
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from verified_runs import MODEL, WORST, copied, edit_rows, make_run

from avbench import store
from avbench.cells import make_clips
from avbench.checkpoint import HEADER
from avbench.cli import main
from avbench.datasets.cards import read_card
from avbench.datasets.encoding import Clip, digest, encode
from avbench.datasets.splits import open_split
from avbench.errors import BudgetViolation, DataError, VerificationFailed
from avbench.evidence import (
    FILE,
    LARGEST,
    MEDIA,
    SCHEMA,
    Evidence,
    Exhibit,
    Media,
    Stored,
    read_evidence,
    write_evidence,
)
from avbench.evidence.clips import THUMBNAIL, Pair, keep_pair, open_pair
from avbench.evidence.make import choose, make_evidence, rounded
from avbench.models import build
from avbench.sandbox import open_model
from avbench.site.boards import make_boards
from avbench.site.content import Entry
from avbench.site.evidence import Shown, find_evidence
from avbench.site.records import read_run
from avbench.suites import find_suite
from avbench.threats import parse_threat
from avbench.types import AVInput
from avbench.verify import open_replay
from avbench.verify.tree import check_files

CARD = read_card("synthav")
HOW: dict[str, Any] = {"limit": 16, "batch_size": 8}
STANDARD = find_suite(None, ("standard",), ("fgsm", "pgd:steps=2"))  # within 0.006, 1.53 levels of a picture
EVERY = replace(WORST, name="every-attack", mode="every", threats=STANDARD.threats, attacks=STANDARD.attacks)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that kept no clips, with its evidence."""
    run = make_run(tmp_path_factory.mktemp("runs"), EVERY, save_adversarial=False, **HOW)
    make_evidence(run, device="cpu")
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return copied(made, tmp_path)


def read(run: Path) -> Evidence:
    evidence = read_evidence(run, store.read_record(run))
    assert evidence is not None
    return evidence


def pairs(run: Path) -> list[tuple[Exhibit, Pair]]:
    found = [(one, open_pair(one, CARD, "full")) for one in read(run).exhibits]
    return [(one, pair) for one, pair in found if pair]


def shown(run: Path) -> list[Shown]:
    """What the site would show of a run."""
    [board] = make_boards([read_run(run)])
    return [one for view in find_evidence([Entry(board, board.runs[0])]) for one in view.shown]


def test_clips_made_again_are_those_that_the_run_judged(tmp_path: Path) -> None:
    """In a worst-case suite the micro-batches of a cell are those of the samples that were still robust."""
    drawn = find_suite(None, ("standard",), ("pgd:steps=2,random_start=True",))
    run = make_run(tmp_path, replace(WORST, attacks=drawn.attacks), **HOW)
    kept = make_evidence(run, device="cpu").read_bytes()
    (run / "adversarial").rename(tmp_path / "elsewhere")
    assert make_evidence(run, device="cpu").read_bytes() == kept


def test_clips_are_made_again_with_as_many_threads_as_the_run_had(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of other threads are rounded otherwise."""
    record, here, seen = store.read_record(run), torch.get_num_threads(), set[int]()
    record["numerics"]["threads"] = here + 2
    (run / "run.json").write_text(json.dumps(record))

    def crafted(*arguments: Any) -> AVInput:
        seen.add(torch.get_num_threads())
        return make_clips(*arguments)

    monkeypatch.setattr("avbench.evidence.make.make_clips", crafted)
    make_evidence(run, device="cpu")
    assert seen == {here + 2}
    assert torch.get_num_threads() == here


def test_nobody_picks_the_samples(made: Path) -> None:
    frame, order = store.read_rows(made), list(open_split("synthav", "test").ids)
    clean = frame[(frame["threat"] == "clean") & (frame["attack"] == "none")]
    attacked = frame[frame["threat"] == str(EVERY.threats[-1])]
    broken, held = [], []
    for sample in sorted(attacked["sample"].unique(), key=order.index):
        rows = attacked[attacked["sample"] == sample].sort_values("margin")
        if bool(clean.set_index("sample")["correct"][sample]):
            (held if rows["correct"].all() else broken).append((sample, rows["attack"].iloc[0]))
    assert broken
    assert held
    wanted = [*broken[:2], held[0]]
    assert [(one.sample, one.attack) for one in read(made).exhibits] == wanted
    assert {one.threat for one in read(made).exhibits} == {str(EVERY.threats[-1])} == {"XAV:linf:0.006:linf:0.006"}


def test_a_sample_that_is_wrong_when_clean_is_not_shown(made: Path) -> None:
    replay = open_replay(made, store.read_record(made), None, "cpu", trust_remote_code=False)
    first, *others = [one.sample for one in choose(replay)]
    frame = replay.frame.copy()
    frame.loc[(frame["sample"] == first) & (frame["threat"] == "clean"), "correct"] = False
    found = [one.sample for one in choose(replace(replay, frame=frame))]
    assert first not in found
    assert found[0] == others[0]


def test_answers_are_those_of_the_rows_and_of_the_clip_that_is_shown(made: Path) -> None:
    frame, (candidate, _) = store.read_rows(made), open_model(MODEL)
    for one, pair in pairs(made):
        rows = frame[frame["sample"] == one.sample].set_index(["threat", "attack"])["prediction"]
        clean, adversarial, seen = one.answers
        assert clean.classes[0] == rows["clean", "none"]
        assert adversarial.classes[0] == rows[one.threat, one.attack]
        audio, video = torch.tensor(pair.attacked.audio)[None] / 32768, torch.tensor(pair.attacked.video)[None] / 255
        with torch.no_grad():
            chances = candidate.module.eval()(audio, video)[0].double().softmax(dim=0)
        assert seen.classes == tuple(chances.argsort(descending=True)[:3].tolist())
        assert seen.confidences == pytest.approx(chances.sort(descending=True).values[:3].tolist(), abs=1e-5)
    right = [one.answers[1].classes[0] == one.answers[0].classes[0] for one, _ in pairs(made)]
    assert right == [False, False, True]


def test_what_is_shown_is_the_clip_of_the_split_and_lies_within_the_budget(made: Path) -> None:
    split = open_split("synthav", "test")
    for one, pair in pairs(made):
        assert digest(pair.clean) == split.lock.rows[split.ids.index(one.sample)].sha256
        for modality, scale in (("audio", 32768), ("video", 255)):
            before, after = (getattr(clip, modality).astype(int) for clip in pair)
            largest = int(np.abs(after - before).max())
            assert largest > 0, "an attack that is not seen is no evidence"
            assert Fraction(largest, scale) <= Fraction(0.006)
            assert Fraction(largest + 1, scale) > Fraction(0.006), "rounding leaves as much of the attack as it may"


@pytest.mark.parametrize("change", [-0.01, 0.0, 0.01])
def test_clips_at_the_ends_of_the_scale_stay_there(change: float) -> None:
    audio, video = torch.linspace(-1, 1, 65537, dtype=torch.float64), torch.linspace(0, 1, 511, dtype=torch.float64)
    after = AVInput((audio + change).clamp(-1, 1), (video + change).clamp(0, 1))
    for modality, scale in (("audio", 32768), ("video", 255)):
        one, two = (getattr(clip, modality) for clip in rounded(AVInput(audio, video), after))
        ideal = getattr(AVInput(audio, video), modality).numpy() * scale
        assert np.abs(one - ideal).max() <= 1
        assert np.abs(two.astype(int) - one).max() <= abs(change) * scale


@pytest.mark.parametrize(
    ("threat", "audio", "video", "within"),
    [
        ("XAV:linf:0.004:linf:0.004", 131, 1, True),
        ("XAV:linf:0.004:linf:0.004", 132, 1, False),
        ("XAV:linf:0.004:linf:0.004", 131, 2, False),
        ("XA:linf:0.004", 131, 1, False),
        ("XV:linf:0.004", 1, 1, False),
        ("XA:l2:0.5", 16384, 0, True),
        ("XA:l2:0.5", 16385, 0, False),
        ("XV:l2:0.02", 0, 5, True),
        ("XV:l2:0.02", 0, 6, False),
    ],
)
def test_a_budget_is_measured_in_integers(made: Path, threat: str, audio: int, video: int, within: bool) -> None:
    one, _ = pairs(made)[0]
    clean = Clip(np.zeros(CARD.samples, np.int16), np.zeros(CARD.spec.shape("video"), np.uint8))
    attacked = Clip(clean.audio.copy(), clean.video.copy())
    attacked.audio[7], attacked.video[3, 2, 1, 0] = -audio, video
    exhibit = one.model_copy(update={"threat": threat})
    if not within:
        with pytest.raises(BudgetViolation, match=f"outside {threat}"):
            keep_pair(exhibit, Pair(clean, attacked), CARD)
        return
    opened = open_pair(keep_pair(exhibit, Pair(clean, attacked), CARD), CARD, "full")
    assert opened is not None
    assert [digest(clip) for clip in opened] == [digest(clean), digest(attacked)]


@pytest.mark.parametrize("made_for", MEDIA)
@pytest.mark.parametrize("today", MEDIA)
def test_no_more_is_kept_or_shown_than_the_card_allows(made: Path, made_for: Media, today: Media) -> None:
    one, pair = pairs(made)[0]
    big = CARD.model_copy(update={"height": 96, "width": 96})
    pair = Pair(*(Clip(clip.audio, clip.video.repeat(2, axis=2).repeat(2, axis=3)) for clip in pair))
    bare = one.model_copy(update={"clean": None, "change": None})
    stored = keep_pair(bare, pair, big.model_copy(update={"media": made_for}))
    assert (stored.clean is None) == (made_for == "none")
    if stored.clean and made_for == "thumbnail":
        assert (len(stored.clean.frames), len(stored.clean.audio)) == (1, 44), "one frame, and the head of a WAV file"
    found = open_pair(stored, big.model_copy(update={"media": today}), made_for)
    if "none" in (made_for, today):
        assert found is None
        return
    assert found is not None
    full = made_for == today == "full"
    assert (len(found.clean.audio), len(found.clean.video)) == ((CARD.samples, CARD.frames) if full else (0, 1))
    assert max(found.clean.video.shape[2:]) == (96 if full else 48)
    assert THUMBNAIL >= 48


def test_a_card_that_says_none_keeps_media_off_the_page(made: Path) -> None:
    [board] = make_boards([read_run(made)])
    assert all(one.media and one.media.assets for one in shown(made))
    object.__setattr__(board, "card", CARD.model_copy(update={"media": "none"}))
    [view] = find_evidence([Entry(board, board.runs[0])])
    assert [one.media for one in view.shown] == [None] * 3
    assert [one.answers for one in view.shown] == [one.answers for one in shown(made)]


def test_evidence_is_small_and_stands_beside_a_run_that_can_be_verified(run: Path) -> None:
    assert (run / FILE).stat().st_size < LARGEST
    assert pq.ParquetFile(run / FILE).metadata.row_group(0).column(0).compression == "SNAPPY"
    differences, _ = check_files(run, store.read_record(run))
    assert differences == []


def test_evidence_that_would_be_large_is_not_written(run: Path) -> None:
    evidence, before = read(run), (run / FILE).read_bytes()
    noise = Stored(audio=os.urandom(LARGEST), frames=(), sha256="0" * 64)
    with pytest.raises(DataError, match=f"at most {LARGEST}"):
        write_evidence(
            run, evidence.model_copy(update={"exhibits": (evidence.exhibits[0].model_copy(update={"clean": noise}),)})
        )
    assert (run / FILE).read_bytes() == before


def test_rows_that_the_model_does_not_give_leave_no_evidence(run: Path) -> None:
    one = read(run).exhibits[0]
    (run / FILE).unlink()

    def edit(rows: pd.DataFrame) -> pd.DataFrame:
        here = (rows["sample"] == one.sample) & (rows["attack"] == one.attack) & (rows["threat"] == one.threat)
        rows.loc[here, "audio_snr_db"] += 1
        return rows

    edit_rows(run, edit)
    with pytest.raises(VerificationFailed, match=f"audio_snr_db of sample {one.sample}"):
        make_evidence(run, device="cpu")
    assert not (run / FILE).exists()


def test_the_command_writes_it_and_names_what_is_no_run(run: Path, tmp_path: Path) -> None:
    before = (run / FILE).read_bytes()
    (run / FILE).unlink()
    done = CliRunner().invoke(main, ["evidence", str(run), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert (run / FILE).read_bytes() == before
    assert f"{len(before)} bytes" in done.output
    refused = CliRunner().invoke(main, ["evidence", str(tmp_path)])
    assert refused.exit_code == 2
    assert "IncompleteRun" in refused.output


def test_a_model_that_tells_where_it_looks_shows_it(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build("localization", CARD.classes.__len__(), CARD.spec, {"width": 2})
    header = {"architecture": "localization", "arguments": {"width": 2}, "dataset": "synthav"}
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path, {HEADER: json.dumps(header)})
    suite = find_suite(None, ("XAV:linf:0.05:linf:0.05",), ("fgsm",))
    run = make_run(tmp_path, suite, str(path), save_adversarial=False, **HOW)
    make_evidence(run, str(path), "cpu")
    evidence = read(run)
    assert evidence.exhibits
    for one, pair in ((one, open_pair(one, CARD, "full")) for one in evidence.exhibits):
        assert pair is not None
        for weights, clip in zip(one.maps, pair, strict=True):
            audio, video = torch.tensor(clip.audio)[None] / 32768, torch.tensor(clip.video)[None] / 255
            with torch.no_grad():
                wanted = model.eval().attention_map(audio, video)[0, CARD.frames // 2]  # type: ignore[operator]
            assert np.array(weights) == pytest.approx(wanted.numpy(), abs=1e-5)
            assert np.sum(weights) == pytest.approx(1, abs=1e-5)
    assert [len(one.media.looks) for one in shown(run) if one.media] == [2] * len(evidence.exhibits)


def test_a_map_holds_each_sample_of_a_micro_batch_twice(made: Path) -> None:
    found, rows = read(made).map, store.read_rows(made)
    assert found is not None
    assert (found.seed, found.perplexity, found.features) == (0, 5.0, "embeddings")
    cell = rows[(rows["threat"] == found.threat) & (rows["attack"] == found.attack)][: HOW["batch_size"]]
    assert [(dot.label, dot.right) for dot in found.dots] == list(zip(cell["label"], cell["correct"], strict=True))
    places = np.array([place for dot in found.dots for place in (dot.clean, dot.attacked)])
    assert places.min() == 0
    assert places.max() == 1000
    assert len({tuple(place) for place in places.tolist()}) > len(found.dots)


def bomb(side: int) -> bytes:
    """A small PNG file of `side` times `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    head = struct.pack(">LLBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(5_000_000)))
        + chunk(b"IEND", b"")
    )


def grown(stored: Stored) -> Stored:
    """A clip with one sample more."""
    sound = io.BytesIO(stored.audio)
    longer = np.append(np.frombuffer(sound.getvalue()[44:], "<i2"), 1).astype(np.int16)
    return stored.model_copy(update={"audio": encode(Clip(longer, np.zeros((0, 3, 1, 1), np.uint8)), 8000).audio})


def small_frame() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "png")
    return out.getvalue()


def louder(one: Exhibit) -> Exhibit:
    """A clip beyond its budget, with hashes that fit."""
    pair = open_pair(one, CARD, "full")
    assert pair is not None
    pair.attacked.audio[100] = pair.clean.audio[100] + 197
    wide = one.model_copy(update={"threat": "XAV:linf:0.5:linf:0.5"})
    return keep_pair(wide, pair, CARD).model_copy(update={"threat": one.threat})


def swapped(one: Exhibit) -> Exhibit:
    """Another clean clip, with hashes that fit."""
    pair = open_pair(one, CARD, "full")
    assert pair is not None
    change = np.zeros_like(pair.clean.audio)
    change[5] = 1
    moved = Pair(*(clip._replace(audio=clip.audio + change) for clip in pair))
    return keep_pair(one, moved, CARD)


def of(**changes: Any) -> Callable[[Exhibit], Exhibit]:
    return lambda one: one.model_copy(update=changes)


def clean(**changes: Any) -> Callable[[Exhibit], Exhibit]:
    return lambda one: one.model_copy(update={"clean": one.clean.model_copy(update=changes)})  # type: ignore[union-attr]


EXHIBITS: dict[str, tuple[Callable[[Exhibit], Exhibit], str]] = {
    "beyond its budget": (louder, "outside XAV"),
    "another clip": (swapped, "holds another clip than"),
    "a wrong hash": (clean(sha256="0" * 64), "does not match its sha256"),
    "a PNG bomb": (lambda one: clean(frames=(bomb(40_000),) * 4)(one), "pixels"),
    "a torn PNG file": (lambda one: clean(frames=(bomb(48)[:60],) * 4)(one), "no PNG file"),
    "frames of another size": (lambda one: clean(frames=(small_frame(),) * 4)(one), "8 x 8 pixels"),
    "too few frames": (lambda one: clean(frames=one.clean.frames[:2])(one), "2 frames"),  # type: ignore[union-attr]
    "a longer sound": (lambda one: of(clean=grown(one.clean))(one), "8193 samples"),  # type: ignore[arg-type]
    "no sound": (clean(audio=b"RIFF"), "no WAV file"),
    "another sample": (of(sample="nobody"), "no row"),
    "another attack": (of(attack="apgd"), "no row"),
    "no threat": (of(threat="XAV:linf:9"), "no row"),
    "another answer": (lambda one: of(answers=(one.answers[1],) * 3)(one), "another answer"),
    "an unknown class": (
        lambda one: of(answers=(*one.answers[:2], one.answers[2].model_copy(update={"classes": (99, 1, 2)})))(one),
        "class 99",
    ),
    "an id of markup": (of(sample="<b>"), "pattern"),
    "a confidence above one": (
        lambda one: of(answers=(one.answers[0].model_copy(update={"confidences": (2.0, 0.0, 0.0)}), *one.answers[1:]))(one),
        "less than or equal to 1",
    ),
    "a ragged map": (of(maps=(((0.5, 0.5), (0.1,)),)), "grid of weights"),
    "a map that is not finite": (of(maps=(((float("nan"),),),)), "finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", EXHIBITS)
def test_a_forged_exhibit_is_a_named_error(run: Path, name: str) -> None:
    forge, says = EXHIBITS[name]
    evidence = read(run)
    write_evidence(run, evidence.model_copy(update={"exhibits": (forge(evidence.exhibits[0]),)}))
    began = time.process_time()
    with pytest.raises((DataError, BudgetViolation), match=says):
        shown(run)
    assert time.process_time() - began < 3


def table(run: Path) -> pa.Table:
    return pq.read_table(run / FILE)


def about(where: Path, /, **changes: Any) -> pa.Table:
    meta = json.loads(table(where).schema.metadata[b"evidence"]) | changes
    return table(where).replace_schema_metadata({b"evidence": json.dumps(meta)})


FILES: dict[str, tuple[Callable[[Path], pa.Table | bytes], str]] = {
    "no Parquet file": (lambda run: b"PAR1" * 100, "is no evidence"),
    "a torn file": (lambda run: (run / FILE).read_bytes()[:-200], "is no evidence"),
    "an empty file": (lambda run: b"", "is no evidence"),
    "a large file": (lambda run: (run / FILE).read_bytes() + bytes(LARGEST), "at most"),
    "other columns": (lambda run: table(run).drop_columns(["maps"]), "columns"),
    "many clips": (lambda run: pa.concat_tables([table(run)] * 2), "at most"),
    "a long list": (lambda run: many(run), "at most"),
    "no footer": (lambda run: table(run).replace_schema_metadata({}), "is no evidence"),
    "another run": (lambda run: about(run, run="0" * 64), "of another run"),
    "other rows": (lambda run: about(run, rows_sha256="0" * 64), "of another run, or of other rows"),
    "another version": (lambda run: about(run, version=2), "of another run"),
    "a word too much": (lambda run: about(run, extra=1), "is no evidence"),
    "no number": (lambda run: about(run, version="NaN"), "is no evidence"),
}  # fmt: skip


def many(run: Path) -> pa.Table:
    rows = table(run).to_pylist()[:1]
    rows[0]["maps"] = [[[0.5] * 300] * 300]
    return pa.Table.from_pylist(rows, table(run).schema)


@pytest.mark.parametrize("name", FILES)
def test_a_forged_file_is_a_named_error(run: Path, name: str) -> None:
    forge, says = FILES[name]
    forged = forge(run)
    if isinstance(forged, bytes):
        (run / FILE).write_bytes(forged)
    else:
        pq.write_table(forged, run / FILE, compression="snappy")
    with pytest.raises(DataError, match=says):
        shown(run)


def test_a_link_is_no_evidence(run: Path) -> None:
    (run / "elsewhere").write_bytes((run / FILE).read_bytes())
    (run / FILE).unlink()
    (run / FILE).symlink_to("elsewhere")
    with pytest.raises(DataError, match="no regular file"):
        shown(run)


def test_the_schema_is_read_by_its_names(run: Path) -> None:
    assert table(run).schema.equals(SCHEMA)
    assert parse_threat(table(run)["threat"][0].as_py()).label == "XAV"

"""The evidence on a model's page: pictures and sounds that are what they say, no larger than a page may be."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from site_runs import THREATS, Page, write_run

from avbench import store
from avbench.datasets.cards import read_card
from avbench.datasets.encoding import Clip
from avbench.datasets.splits import open_split
from avbench.evidence import VERSION, Answer, Dot, Evidence, Exhibit, Map, write_evidence
from avbench.evidence.clips import Pair, keep_pair, open_pair
from avbench.figures import SINE, decibels
from avbench.site import build
from avbench.site import evidence as shown_evidence
from avbench.site.boards import make_boards
from avbench.site.content import Entry
from avbench.site.evidence import LIMIT, View, find_evidence
from avbench.site.media import HIGH, LOW, Media
from avbench.site.records import read_run

CARD = read_card("synthav")
XAV, ATTACK = THREATS[2], "pgd"
MAPS = (((0.25, 0.25), (0.5, 0.0)), ((0.0, 0.1), (0.1, 0.8)))


def attack(clean: Clip, seed: int) -> Clip:
    """Move every number by as much as 0.006 allows, or not at all."""
    draw = np.random.default_rng(seed)
    audio = clean.audio.astype(int) + 196 * draw.integers(-1, 2, clean.audio.shape)
    video = clean.video.astype(int) + draw.integers(-1, 2, clean.video.shape)
    return Clip(audio.clip(-32768, 32767).astype(np.int16), video.clip(0, 255).astype(np.uint8))


def add_evidence(run: Path) -> None:
    """Write evidence of three samples of a generated run, of the real clips of that name."""
    record, rows, split = store.read_record(run), store.read_rows(run), open_split("synthav", "test")
    told = rows.set_index(["sample", "threat", "attack"])["prediction"]
    exhibits = []
    for seed, sample in enumerate(rows["sample"].unique()[:3]):
        clean = Clip(*split.stored(split.ids.index(sample))[2:])
        classes = [int(told[sample, "clean", "none"]), *[int(told[sample, XAV, ATTACK])] * 2]
        answers = tuple(Answer(classes=(one, 5, 6), confidences=(0.7, 0.2, 0.05)) for one in classes)
        maps = MAPS if seed == 0 else ()
        one = Exhibit(sample=sample, threat=XAV, attack=ATTACK, answers=answers, maps=maps)
        exhibits.append(keep_pair(one, Pair(clean, attack(clean, seed)), CARD))
    dots = tuple(Dot(label=i % 8, clean=(10 * i, 5), attacked=(1000, 7), right=bool(i % 2)) for i in range(20))
    drawn = Map(threat=XAV, attack=ATTACK, features="embeddings", seed=11, perplexity=12.5, dots=dots)
    write_evidence(
        run,
        Evidence(
            version=VERSION, run=record["run"], rows_sha256=record["rows_sha256"], media="full", map=drawn,
            exhibits=tuple(exhibits),
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("evidence") / "results", "weak")
    add_evidence(run)
    return run


@pytest.fixture(scope="module")
def site(run: Path) -> Path:
    return build([run], run.parents[2] / "site").parent


def view_of(run: Path) -> View:
    [board] = make_boards([read_run(run)])
    [view] = find_evidence([Entry(board, board.runs[0])])
    return view


def media_of(view: View) -> list[Media]:
    return [one.media for one in view.shown if one.media]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_pictures_are_the_frames_and_their_difference_times_what_is_printed(run: Path) -> None:
    view = view_of(run)
    assert len(media_of(view)) == 3
    for one in view.shown:
        pair = open_pair(one.exhibit, CARD, "full")
        assert pair is not None
        assert one.media is not None
        before, after = (clip.video[CARD.frames // 2].transpose(1, 2, 0).astype(int) for clip in pair)
        clean, attacked, difference = (pixels(asset.make()) for asset in one.media.frames)
        assert np.array_equal(clean, before)
        assert np.array_equal(attacked, after)
        assert np.array_equal(difference - 128, 127 * (after - before)), "one level is as far as colors go"
        assert one.media.frames[2].title == "Difference \u00d7 127"


def test_sounds_are_the_clips_bit_for_bit(run: Path) -> None:
    for one in view_of(run).shown:
        pair = open_pair(one.exhibit, CARD, "full")
        assert pair is not None
        assert one.media is not None
        for asset, clip in zip(one.media.sounds, pair, strict=True):
            with wave.open(io.BytesIO(asset.make())) as file:
                assert (file.getnchannels(), file.getframerate()) == (1, CARD.sample_rate)
                assert np.array_equal(np.frombuffer(file.readframes(99_999), "<i2"), clip.audio)


@pytest.mark.parametrize("level", [0, -20, -80])
def test_a_sine_has_its_own_level_in_a_spectrogram(level: float) -> None:
    """In dB of full scale, at its own frequency and nowhere louder."""
    sound = 10 ** (level / 20) * np.sin(2 * np.pi * 1000 * np.arange(8192) / 8000)
    found = decibels(sound)[:, 10:-10] - SINE
    assert found.max() == pytest.approx(level, abs=0.1)
    assert set(found.argmax(axis=0)) == {1000 * 256 // 8000}


def test_all_spectrograms_have_one_range_of_colors(run: Path) -> None:
    """The same level has the same color in each picture, and what is louder is brighter."""
    seen: dict[int, tuple[int, ...]] = {}
    for one in view_of(run).shown:
        pair = open_pair(one.exhibit, CARD, "full")
        assert pair is not None
        assert one.media is not None
        clean, attacked = (clip.audio.astype(float) / 32768 for clip in pair)
        for asset, sound in zip(one.media.spectrograms, (clean, attacked, attacked - clean), strict=True):
            step = ((decibels(sound)[::-1] - SINE - LOW) / (HIGH - LOW)).clip(0, 1) * 255
            colors = pixels(asset.make())
            assert colors.shape[:2] == step.shape == (asset.height, asset.width)
            for level, color in zip(step.round().astype(int).ravel(), colors.reshape(-1, 3).tolist(), strict=True):
                assert seen.setdefault(int(level), tuple(color)) == tuple(color)
    brightness = [sum(seen[level]) for level in sorted(seen)]
    assert brightness == sorted(brightness)
    assert len(seen) > 100


def test_where_a_model_looks_is_drawn_on_one_scale(run: Path) -> None:
    first = media_of(view_of(run))[0]
    clean, attacked = (pixels(asset.make()).sum(axis=2) for asset in first.looks)
    assert first.brightest == pytest.approx(80)
    for picture, weights in ((clean, MAPS[0]), (attacked, MAPS[1])):
        assert np.array_equal(np.argsort(picture.ravel(), kind="stable"), np.argsort(np.ravel(weights), kind="stable"))
    assert attacked[1, 1] > clean.max(), "the brightest of both is the heaviest of both"


def test_no_file_is_larger_than_it_says(run: Path) -> None:
    for media in media_of(view_of(run)):
        assert len(media.assets) >= 8
        for asset in media.assets:
            assert len(asset.make()) <= asset.size


def test_a_page_has_no_more_media_than_it_may(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = media_of(view_of(run))
    for several in (1, 2):
        limit = sum({a.path: a.size for media in whole[:several] for a in media.assets}.values())
        monkeypatch.setattr(shown_evidence, "LIMIT", limit)
        view = view_of(run)
        assert [one.media is not None for one in view.shown] == [True] * several + [False] * (3 - several)
        assert len(view.shown) == 3, "answers stay"
    assert LIMIT <= 1_500_000


def test_the_page_loads_late_says_what_it_shows_and_whom_to_thank(site: Path) -> None:
    page = Page(site / "models" / "avbench--weak.html")
    text = " ".join(page.text.split())
    for words in ("Turn the volume down", "-90 dB (black) to 0 dB (white)", "0 to 4 kHz", "Perplexity 12.50, seed 11",
                  "another seed or perplexity draws another map", f"Clips of SynthAV: {CARD.license}.",
                  "Difference \u00d7 127", "0.006 of 0.006", "as shown"):  # fmt: skip
        assert words in text, words
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 3 * 6 + 2
    for attrs in images:
        assert (attrs["loading"], bool(attrs["alt"])) == ("lazy", True)
        assert Image.open(page.path.parent / str(attrs["src"])).size == (
            int(str(attrs["width"])),
            int(str(attrs["height"])),
        )
    sounds = [attrs for tag, attrs in page.tags if tag == "audio"]
    assert [(attrs["preload"], "controls" in attrs, "autoplay" in attrs) for attrs in sounds] == [
        ("none", True, False)
    ] * 6
    used = {(page.path.parent / str(attrs["src"])).resolve() for attrs in (*images, *sounds)}
    stored = {path.resolve() for path in (site / "media").iterdir()}
    assert used == stored
    assert sum(path.stat().st_size for path in stored) <= LIMIT
    assert len(page.ids) == len(set(page.ids))


def test_a_model_without_evidence_has_no_section(tmp_path: Path) -> None:
    write_run(tmp_path / "results", "plain")
    site = build([tmp_path / "results"], tmp_path / "site").parent
    page = Page(site / "models" / "avbench--plain.html")
    assert "evidence" not in page.ids
    assert "evidence.css" not in page.path.read_text()
    assert not (site / "media").exists()

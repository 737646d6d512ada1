"""An audit finds what was planted, and nothing where nothing was; on real lists it finds what is known of them."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import video_sets
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_clips import Made, flat
from numpy.typing import NDArray
from video_sets import CARD, Inline, write_card

from avbench.cli import main
from avbench.datasets import perceptual
from avbench.datasets.audit import Audit, Content, Group, Place, audit
from avbench.datasets.cards import read_card
from avbench.datasets.perceptual import Clusters, cluster, picture_print, sound_print
from avbench.datasets.prepare import prepare
from avbench.errors import BadOption, DataError, UnknownName

RATE = 8000
CLASSES = CARD["classes"]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["data", "audit", *map(str, words)])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return video_sets.enter(tmp_path, monkeypatch)


# --- Real lists ---


def test_the_leaks_of_ave_are_those_of_the_manifest_row_by_row(real_data: Path) -> None:
    found = audit("ave", real_data / "splits").ids
    known, kinds = {}, Counter()
    for row in csv.DictReader((real_data / "splits" / "AVE_duplicates.csv").open()):
        where = re.findall(r"(\w+):(\d+)", row["occurrences (split:line, 1-based)"])
        known[row["youtube_id"]] = [Place(split, int(line), row["class"]) for split, line in where]
        kinds[row["kind"]] += 1
    assert kinds == {
        "duplicate within train": 26,
        "duplicate within val": 1,
        "leak train+val": 10,
        "leak train+test": 8,
    }
    assert found.repeated | found.shared == known
    assert found.relabeled == {}
    assert Counter(splits_of(places) for places in found.shared.values()) == {"train test": 8, "train val": 10}
    inside = [splits_of(places) for id_, places in found.repeated.items() if id_ not in found.shared]
    assert Counter(inside) == {"train": 26, "val": 1}


def splits_of(places: list[Place]) -> str:
    return " ".join(dict.fromkeys(place.split for place in places))


@pytest.mark.parametrize("name", ["ave-dedup", "mit-music", "kinetics-sounds", "grid", "synthav", "avmnist"])
def test_the_other_lists_hold_no_id_twice(name: str, real_data: Path) -> None:
    found = audit_lists(name, real_data)
    assert list(asdict(found.ids).values()) == [{}, {}, {}]
    assert {split: counts.ids for split, counts in found.splits.items()} == read_card(name).splits


def audit_lists(name: str, real_data: Path) -> Audit:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVBENCH_CACHE", "/nothing/is/prepared/here")
        return audit(name, real_data / "splits" if name not in ("grid", "synthav", "avmnist") else None)


@pytest.mark.parametrize(("name", "title"), [("ave", "AVE"), ("mit-music", "MUSIC"), ("kinetics-sounds", "KS")])
def test_class_counts_are_those_of_the_manifest(name: str, title: str, real_data: Path) -> None:
    text = (real_data / "MANIFEST.md").read_text().partition(f"### {title} per class (train/val/test)\n\n")[2]
    known = re.findall(r"(\w+) (\d+)/(\d+)/(\d+)", text.partition("\n")[0])
    found = audit_lists(name, real_data).splits
    assert len(known) == len(read_card(name).classes)
    for split, column in (("train", 1), ("val", 2), ("test", 3)):
        assert found[split].classes == {row[0]: int(row[column]) for row in known}


def test_of_audioset_one_split_can_be_audited_without_the_other(real_data: Path) -> None:
    found = audit("audioset", real_data / "splits", ["test"])
    counts = found.splits["test"]
    assert (counts.clips, counts.ids, len(counts.classes), sum(counts.classes.values())) == (20371, 20371, 527, 51804)
    assert list(found.splits) == ["test"] == found.not_prepared
    assert found.content is None


# --- Made lists ---


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {split: st.lists(st.tuples(st.sampled_from("pqrstuvw"), st.sampled_from(CLASSES))) for split in ("a", "b", "c")}
    )
)
def test_an_id_is_found_if_and_only_if_it_stands_twice(place: Path, lists: dict[str, list[tuple[str, str]]]) -> None:
    write_card(
        "listed", {split: [["id", "label", "file"], *([*row, "x"] for row in rows)] for split, rows in lists.items()}
    )
    found = audit("listed")
    rows = [(split, n, id_, label) for split, some in sorted(lists.items()) for n, (id_, label) in enumerate(some, 1)]
    for id_ in "pqrstuvw":
        mine = [(split, n, label) for split, n, other, label in rows if other == id_]
        splits = [split for split, _, _ in mine]
        expected = (
            len(splits) > len(set(splits)), len(set(splits)) > 1, len({label for _, _, label in mine}) > 1
        )  # fmt: skip
        for places, due in zip(vars(found.ids).values(), expected, strict=True):
            assert places.get(id_) == ([Place(*one) for one in mine] if due else None)
    for split, some in lists.items():
        classes = Counter(label for _, label in some)
        assert found.splits[split].classes == {name: classes[name] for name in CLASSES}
        assert found.splits[split].ids == len({id_ for id_, _ in some})


def test_labels_of_a_multilabel_split_are_counted_for_each_class(place: Path) -> None:
    rows = [["id", "label", "file"], ["v", "a;b", "v"], ["w", "b", "w"], ["v", "b;a", "v"], ["w", "a", "w"]]
    write_card("many", {"test": rows}, task="multilabel")
    found = audit("many")
    assert found.splits["test"].classes == {"a": 3, "b": 3, "c": 0}
    assert set(found.ids.repeated) == {"v", "w"}
    assert set(found.ids.relabeled) == {"w"}
    result = run("many")
    assert result.exit_code == 0
    assert re.search(r"test +4 +2 +6 +3 +0 c +3 b +1\n", result.stdout)


HEAD = "id,label,file\n"


@pytest.mark.parametrize(
    "text",
    [
        b"", b"id,label\nv,a\n", HEAD.encode() + b"v,a\n", HEAD.encode() + b"v,nothing,x\n", HEAD.encode() + b"../v,a,x\n",
        HEAD.encode() + b'"v,a,x\n', HEAD.encode() + b"v,a,\xff\n", HEAD.encode() + b"v,a,x\x00,\n",
        HEAD.encode() + b"v" * 200 + b",a,x\n", HEAD.encode() + b"v,a," + b"x" * 200_000 + b"\n",
    ],
)  # fmt: skip
def test_a_hostile_list_gives_a_named_error(place: Path, text: bytes) -> None:
    folder = write_card("hostile", {"test": [["id", "label", "file"]]})
    (folder / "test-list.csv").write_bytes(text)
    with pytest.raises(DataError):
        audit("hostile")
    result = run("hostile")
    assert result.exit_code == 2
    assert "DataError: " in result.stderr
    assert "test-list.csv" in result.stderr


def test_bad_words_on_the_command_line_give_named_errors(place: Path) -> None:
    write_card("small", {"test": [["id", "label", "file"], ["v", "a", "v"]]})
    with pytest.raises(BadOption, match="has the splits test, not 'val'"):
        audit("small", splits=["test", "val"])
    with pytest.raises(UnknownName):
        audit("smell")
    for words in (["smell"], ["small", "--split", "val"], ["ave", "--lists", place / "nowhere"], []):
        assert run(*words).exit_code == 2


def test_what_is_not_prepared_is_said_and_no_error(place: Path) -> None:
    write_card("small", {"test": [["id", "label", "file"], ["v", "a", "v"]]})
    assert audit("small").content is None
    result = run("small")
    assert result.exit_code == 0
    assert "clips not looked at: test (run `avbench data prepare small` first)" in result.stdout


# --- Made clips ---


def sound(seed: int, rate: int = RATE, gain: float = 1.0, late: float = 0.0, seconds: float = 2.0) -> NDArray[np.int16]:
    """Forty whistles, each at its own time, the same at every sample rate."""
    random = np.random.default_rng(seed)
    time = np.arange(round(rate * seconds)) / rate - late
    total = np.zeros(len(time))
    for _ in range(40):
        hertz, middle, width = random.uniform(250, 3400), random.uniform(0, seconds), random.uniform(0.02, 0.1)
        total += np.sin(2 * np.pi * hertz * time) * np.exp(-(((time - middle) / width) ** 2))
    return np.clip(np.round(gain * 8000 * total), -32768, 32767).astype(np.int16)


def gray(seed: int, moment: float, height: int, width: int, contrast: float = 1.0) -> NDArray[np.uint8]:
    """Waves that go their way, the same at every size."""
    random = np.random.default_rng(seed)
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width]).reshape(2, 1, 1)
    waves = sum(
        np.sin(2 * np.pi * (random.uniform(-3, 3) * x + random.uniform(-3, 3) * y + random.uniform() + moment))
        for _ in range(8)
    )
    return np.clip(126 + contrast * 25 * waves, 16, 235).astype(np.uint8)


def picture(
    seed: int, contrast: float = 1.0, speed: float = 0.02, flicker: int = 0
) -> Callable[[int, int, int, bool], list[Any]]:
    def draw(i: int, height: int, width: int, high: bool) -> list[Any]:
        light = np.uint8(i // 2 % 2 * flicker)
        return [
            gray(seed, speed * i, height, width, contrast) + light,
            *[np.full((height // 2, width // 2), 128, np.uint8)] * 2,
        ]

    return draw


def clip(heard: int, seen: int, gain: float = 1.0, late: float = 0.0, contrast: float = 1.0, **how: Any) -> Made:
    rate = how.pop("rate", RATE)
    made = Made(frames=20, fps=10, size=(72, 96), sound=sound(heard, rate, gain, late), rate=rate)
    return replace(made, draw=picture(seen, contrast), **how)


LOUD = {"audio_codec": "pcm_s16le"}
AGAIN = {  # the same clip, from other programs
    "a1.mp4": {"codec": "libx264", "options": (("crf", "32"),), "audio_codec": "aac", "rate": 44100, "gain": 0.5},
    "a2.avi": {"codec": "mpeg4", "options": (("b", "200000"),), "audio_codec": "libmp3lame", "rate": 22050, "late": 0.1},
    "a3.webm": {"codec": "libvpx", "audio_codec": "libopus", "rate": 48000, "late": -0.15, "size": (144, 192)},
    "a4.mkv": {"codec": "mjpeg", "pixels": "yuvj420p", "audio_codec": "mp2", "rate": 32000, "contrast": 0.8, "gain": 0.2},
}  # fmt: skip
PLANTED: dict[str, dict[str, Made]] = {
    "train": {
        "a0.mkv": clip(1, 1), "b0.mkv": clip(2, 2), "c0.mkv": clip(3, 3), "d0.mkv": clip(4, 4),
        "silent.mkv": clip(5, 5, gain=0.0005), "frozen.mkv": replace(clip(6, 6), draw=picture(6, speed=0)),
    },
    "test": {
        **{name: clip(1, 1, **how) for name, how in AGAIN.items()},
        "b1.mkv": clip(2, 2), "b2.mkv": clip(2, 7), "c1.mkv": clip(8, 3), "c2.mkv": clip(9, 3, contrast=0.7),
        "c3.mkv": clip(3, 10, gain=0.7), "clipped.mkv": clip(11, 11, gain=4), "constant.mkv": replace(clip(13, 13), draw=flat), "e0.mkv": clip(14, 14),
        "flickers.mkv": replace(clip(12, 12), draw=picture(12, speed=0, flicker=5)),
        "blinks.mkv": replace(clip(15, 15), draw=picture(15, speed=0, flicker=9)),
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Audit, Result, Result]]:
    """What the audit finds, and what the command prints, of splits with known faults."""
    with pytest.MonkeyPatch.context() as patch:
        place = video_sets.enter(tmp_path_factory.mktemp("planted"), patch)
        patch.setattr("avbench.datasets.videos.Workers", Inline)
        lists = {split: [["id", "label", "file"]] for split in (*PLANTED, "val")}
        for split, made in PLANTED.items():
            for name, one in made.items():
                one.write(place / name)
                lists[split].append([name.partition(".")[0], "a", name])
        write_card("planted", lists, samples=RATE, frames=3, fps=4, height=48, width=64)
        for split in PLANTED:
            assert not prepare("planted", split, place).gaps
        yield audit("planted"), run("planted"), run("planted", "--json")


def content(found: Audit) -> Content:
    assert found.content
    return found.content


def as_sets(groups: list[Group]) -> list[dict[str, set[str]]]:
    return sorted(({split: set(ids) for split, ids in group.items()} for group in groups), key=str)


def test_each_planted_copy_is_found_and_nothing_else(planted: tuple[Audit, Result, Result]) -> None:
    found = content(planted[0])
    assert {kind: as_sets(groups) for kind, groups in found.identical.items()} == {
        "clip": [{"train": {"b0"}, "test": {"b1"}}],
        "audio": [{"train": {"b0"}, "test": {"b1", "b2"}}],
        "frame": [{"train": {"c0"}, "test": {"c1"}}],
    }
    assert {kind: as_sets(groups) for kind, groups in found.similar.items()} == {
        "clip": [{"train": {"a0"}, "test": {"a1", "a2", "a3", "a4"}}],
        "audio": [{"train": {"c0"}, "test": {"c3"}}],
        "frame": [{"train": {"c0"}, "test": {"c1", "c2"}}],
    }


def test_each_planted_fault_of_a_clip_is_found_and_nothing_else(planted: tuple[Audit, Result, Result]) -> None:
    train, test = content(planted[0]).splits["train"], content(planted[0]).splits["test"]
    assert (train.looked_at, train.silent, train.clipped, train.constant, train.frozen) == (
        6, ["silent"], {}, {}, ["frozen"],
    )  # fmt: skip
    assert (test.looked_at, test.silent, set(test.clipped), test.constant, test.frozen) == (
        14, [], {"clipped"}, {"constant": 3}, ["flickers"],
    )  # fmt: skip
    middle = sound(11, gain=4)[RATE // 2 : -RATE // 2]
    assert test.clipped["clipped"] == pytest.approx(np.mean(np.abs(middle.astype(int)) >= 32767), rel=0.2)
    assert planted[0].not_prepared == ["val"]


def test_the_command_prints_what_was_found_and_succeeds(planted: tuple[Audit, Result, Result]) -> None:
    found, text, as_json = planted
    assert (text.exit_code, as_json.exit_code) == (0, 0)
    assert json.loads(as_json.stdout) == json.loads(json.dumps(asdict(found)))
    for line in (
        r"train +6 +1 +0 +0 +1", r"test +14 +0 +1 +1 +1", r"clip +1 +1 test, 1 train +1 +1 test, 1 train",
        r"clip +1 +4 test, 1 train +1 +4 test, 1 train", "near-duplicate audio:\n  test c3; train c0\n",
        r"clips not looked at: val \(", "test, clipped:\n  clipped: ", "train, silent:\n  silent\n",
    ):  # fmt: skip
        assert re.search(rf"(^|\n){line}", text.stdout), line


def test_long_findings_are_cut_in_the_text_and_whole_in_json(place: Path) -> None:
    write_card("long", {"test": [["id", "label", "file"], *([f"v{n % 50}", "a", "v"] for n in range(100))]})
    text = run("long").stdout
    assert len(re.findall(r"  v\d+: test", text)) == 10
    assert "and 40 more (--json has all)" in text
    assert len(json.loads(run("long", "--json").stdout)["ids"]["repeated"]) == 50


def test_a_damaged_shard_is_a_named_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avbench.datasets.videos.Workers", Inline)
    clip(1, 1).write(place / "v.mkv")
    write_card("small", {"test": [["id", "label", "file"], ["v", "a", "v"]]})
    prepare("small", "test", place)
    shard = next((place / "cache").rglob("*.parquet"))
    shard.write_bytes(shard.read_bytes().replace(b"RIFF", b"RAFF"))
    result = run("small")
    assert result.exit_code == 2
    assert "CorruptShard: " in result.stderr
    assert "avbench data prepare small" in result.stderr


# --- Fingerprints ---


def clusters(sounds: list[NDArray[np.int16]], pictures: list[NDArray[np.uint8]] | None = None) -> Clusters:
    prints = [picture_print(np.stack([one] * 3)) for one in pictures or [gray(0, 0, 48, 64)] * len(sounds)]
    return cluster(np.stack([sound_print(one, RATE) for one in sounds]), np.stack(prints))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.03, 1.2), st.floats(-0.19, 0.19), st.floats(0, 0.005))
def test_a_sound_is_known_again_louder_or_softer_earlier_or_later_and_with_hiss(
    seed: int, gain: float, late: float, hiss: float
) -> None:
    again = sound(seed, gain=gain, late=late) + gain * 8000 * hiss * np.random.default_rng(seed).normal(size=2 * RATE)
    found = clusters([sound(seed), np.clip(again, -32768, 32767).astype(np.int16), sound(seed + 1)])
    assert found.audio[0] == found.audio[1] != found.audio[2]


@settings(max_examples=25, deadline=None, derandomize=True)  # of random pictures about one in 500 is missed
@given(st.integers(0, 10**6), st.floats(0.3, 1.2), st.integers(32, 300), st.integers(32, 300), st.floats(-10, 10))
def test_a_picture_is_known_again_at_another_size_brightness_and_contrast(
    seed: int, contrast: float, height: int, width: int, light: float
) -> None:
    again = np.clip(gray(seed, 0, height, width, contrast) + light, 0, 255).astype(np.uint8)
    found = clusters([sound(0)] * 3, [gray(seed, 0, 72, 96), again, gray(seed + 1, 0, 72, 96)])
    assert found.frame[0] == found.frame[1] != found.frame[2]


def test_different_sounds_and_pictures_are_never_taken_for_each_other() -> None:
    several = range(250)
    found = clusters([sound(seed) for seed in several], [gray(seed, 0, 48, 64) for seed in several])
    assert all(len(set(numbers.tolist())) == len(several) for numbers in found)


def test_pictures_that_share_only_their_light_are_not_alike() -> None:
    light = np.linspace(30, 200, 48)[:, None] + np.zeros(64)
    faint = [np.round(light + 0.08 * gray(seed, 0, 48, 64)).astype(np.uint8) for seed in range(12)]
    assert np.corrcoef([one.ravel() for one in faint]).min() > 0.99
    assert len(set(clusters([sound(0)] * 12, faint).frame.tolist())) == 12


@pytest.mark.parametrize("kind", ["silence", "tone", "short"])
def test_a_sound_that_tells_nothing_is_like_no_other(kind: str) -> None:
    time = np.arange(RATE) / RATE
    one = {"silence": 0 * time, "tone": 9000 * np.sin(2 * np.pi * 440 * time), "short": time[:700] * 9000}[kind]
    found = clusters([one.astype(np.int16)] * 3)
    assert len(set(found.audio.tolist())) == 3
    assert len(set(found.clip.tolist())) == 3
    assert len(set(found.frame.tolist())) == 1


def test_short_noises_in_silence_are_like_no_other() -> None:
    random, time = np.random.default_rng(0), np.arange(RATE) / RATE
    noises = [
        9000 * np.sin(2 * np.pi * hertz * time) * np.exp(-(((time - middle) / 0.03) ** 2))
        for hertz, middle in zip(random.uniform(250, 3400, 100), random.uniform(0.3, 0.7, 100), strict=True)
    ]
    assert len(set(clusters([noise.astype(np.int16) for noise in noises]).audio.tolist())) == 100


@pytest.mark.parametrize("stain", [0, 1])
def test_a_flat_picture_is_like_no_other(stain: int) -> None:
    flat_one = np.full((48, 64), 90, np.uint8)
    flat_one[:20, :30] += np.uint8(stain)
    found = clusters([sound(0)] * 2, [flat_one] * 2)
    assert found.frame[0] != found.frame[1]
    assert found.audio[0] == found.audio[1]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=25), st.integers(1, 9))
def test_clips_are_linked_across_blocks_as_within_one(
    monkeypatch: pytest.MonkeyPatch, kinds: list[tuple[int, int]], block: int
) -> None:
    monkeypatch.setattr(perceptual, "BLOCK", block)
    heard, seen = zip(*kinds, strict=True)
    found = clusters([sound(n) for n in heard], [gray(n, 0, 48, 64) for n in seen])
    for numbers, keys in ((found.clip, kinds), (found.audio, heard), (found.frame, seen)):
        assert partition(numbers.tolist()) == partition(list(keys))


def test_links_reach_over_several_clips() -> None:
    """Sounds that are 0.15 s apart are alike; those 0.6 s apart are so only over the ones between."""
    steps = [0.0, 0.6, 0.15, 0.45, 0.3]
    assert len(set(clusters([sound(1, late=late) for late in steps]).audio.tolist())) == 1
    assert len(set(clusters([sound(1, late=late) for late in steps[:2]]).audio.tolist())) == 2


def partition(keys: list[Any]) -> list[set[int]]:
    members = defaultdict(set)
    for index, key in enumerate(keys):
        members[key].add(index)
    return sorted(members.values(), key=min)


# --- Real clips ---


@pytest.mark.slow
def test_avmnist_reuses_recordings_and_the_audit_finds_exactly_which(place: Path, real_data: Path) -> None:
    prepare("avmnist", "test", real_data)
    found = content(audit("avmnist", splits=["test"]))
    recordings = [{id_.split("-")[2] for id_ in group["test"]} for group in found.identical["audio"]]
    assert sorted(map(len, recordings)) == [1] * 300
    assert len(set.union(*recordings)) == 300
    assert sum(len(group["test"]) for group in found.identical["audio"]) == 2000
    assert (found.identical["clip"], found.identical["frame"], found.similar["audio"]) == ([], [], [])
    assert found.splits["test"].frozen == [], "a single frame is no frozen video"
    for group in found.similar["clip"]:
        assert re.fullmatch(r"1_\w+", *{id_.split("-")[2] for id_ in group["test"]}), "one recording; ones look alike"
    assert len(found.similar["clip"]) <= 3


def test_one_speaker_in_one_room_is_not_taken_for_copies(place: Path, real_data: Path) -> None:
    prepare("grid", "val", real_data)
    found = content(audit("grid", splits=["val"]))
    assert list(found.identical.values()) == [[], [], []]
    assert (found.similar["clip"], found.similar["audio"]) == ([], [])
    assert found.similar["frame"], "the room is the same"

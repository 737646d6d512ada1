"""Charts: every mark stands where the scores say, leads to its model, and can be had as a file that stands alone."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Linear, candidate, make_split
from PIL import Image
from site_runs import THREATS, write_run
from test_site import HOSTILE

from avbench import analyze, store
from avbench.datasets.splits import open_split
from avbench.errors import DataError
from avbench.metrics import CLEAN, NONE
from avbench.options import RunOptions
from avbench.runner import evaluate
from avbench.sandbox import open_model
from avbench.site.boards import Board, Scored, make_boards
from avbench.site.charts import Chart, board_charts, run_charts
from avbench.site.charts.plots import Line as Curve
from avbench.site.charts.plots import Point, front, lines, scatter
from avbench.site.charts.svg import COLORS, LEFT, Style, fitted, percent, style_of, width
from avbench.site.content import Content, Entry
from avbench.site.pages import HERE, charts, environment
from avbench.site.records import read_runs, visible
from avbench.suites import find_suite

CLAIM = {"suite": "cvpr21-attack", "split": "test", "clean": 93.5, "robust": 41.25}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    results = tmp_path_factory.mktemp("charts")
    for seed, strength in ((1, 0.5), (2, 0.8)):
        write_run(results, f"number-{seed}", seed, strength, model__claims=[CLAIM] if seed == 1 else [])
    write_run(results, "limited", 5, 0.9, n=128)
    write_run(results, "sees", 6, 0.6, model__reference="unimodal-video")
    write_run(results, "hostile", 7, 0.4, model__title=HOSTILE)
    geometry = pd.DataFrame([(0, "joint", "input-convexity", np.nan, 0.75, 0.7, 0.8, 99)], columns=analyze.COLUMNS)
    for name in ("number-1", "number-2"):
        folder = results / "synthav-test-cvpr21-attack@1" / name
        record = store.read_record(folder) | ({"run": "of another run"} if name == "number-2" else {})
        store.publish_table(folder / analyze.GEOMETRY, geometry, analyze.bound(record))
    [board] = make_boards(read_runs([results]))
    return board


def chart(found: list[Chart], kind: str) -> Chart:
    [one] = [one for one in found if one.key.endswith(f"/{kind}")]
    return one


def run_of(board: Board, name: str) -> Entry:
    return Entry(board, next(one for one in board.runs if one.run.record.model.id.endswith(name)))


def value(one: Scored, metric: str, threat: str, attack: str) -> float:
    s = one.scores
    found = s["value"][(s["metric"] == metric) & (s["threat"] == threat) & (s["attack"] == attack)]
    return float(found.iloc[0])


def center(mark: ET.Element) -> tuple[float, float]:
    if mark.tag == "circle":
        return float(mark.attrib["cx"]), float(mark.attrib["cy"])
    x, y = re.findall(r"-?[\d.]+", mark.attrib["d"])[:2]
    top = {"m-4-4": 0, "m0-5.": 0}.get(re.sub(r"^M[\d. ]+", "", mark.attrib["d"])[:5])
    assert top == 0, mark.attrib["d"]
    return float(x), float(y)


def read_off(drawing: ET.Element, mark: ET.Element) -> tuple[float, float]:
    """Read a mark's values off the axes, by what stands at their ticks."""
    grid = drawing.find("g[@class='grid']")
    ticks = drawing.find("g[@class='soft']")
    assert grid is not None
    assert ticks is not None
    places: dict[str, list[float]] = {"V": [], "H": []}
    for line in grid:
        move = re.fullmatch(r"M([\d.]+) ([\d.]+)([VH])[\d.]+", line.attrib["d"])
        assert move
        places[move[3]].append(float(move[1 if move[3] == "V" else 2]))
    texts = [float(text.text or "") for text in ticks]
    x, y = center(mark)
    across, up = texts[: len(places["V"])], texts[len(places["V"]) :]
    return (
        float(np.interp(x, places["V"], across)),
        float(np.interp(-y, [-place for place in places["H"]], up)),
    )


def marks(one: Chart) -> dict[str, ET.Element]:
    """The mark of each point, by the address that it leads to."""
    return {link.attrib["href"]: link[1] for link in one.drawing.iter("a")}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("pareto", [("clean-accuracy", CLEAN, NONE), ("avg", "mean of XA, XV, XAV", "worst case")]),
        ("reliance", [("robust-accuracy", text, "worst case") for text in THREATS[:2]]),
    ],
)
def test_a_point_stands_at_the_scores_of_the_model_to_which_it_leads(
    board: Board, kind: str, names: list[tuple[str, str, str]]
) -> None:
    one = chart(board_charts(board), kind)
    found = marks(one)
    assert len(found) == len(one.rows) == len(board.runs)
    for scored, row in zip(board.runs, one.rows, strict=True):
        wanted = [value(scored, *name) for name in names]
        place = read_off(one.drawing, found[f"../../models/{scored.run.record.model.id}.html"])
        assert list(place) == pytest.approx(wanted, abs=0.2)
        assert list(row[2:]) == pytest.approx(wanted)
        assert row[0] == scored.run.record.model.title


def test_no_ranked_run_lies_beyond_the_front_and_those_on_its_corners_are_beaten_by_none() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        points = [tuple(map(float, p)) for p in draw.integers(0, 12, (9, 2))]
        steps = front(points)  # type: ignore[arg-type]
        assert all(one[0] == other[0] or one[1] == other[1] for one, other in itertools.pairwise(steps))
        best = {p for p in points if not any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)}
        assert best <= set(steps)
        for x, y in points:
            assert any(x <= a and y <= b for a, b in best)


def test_only_ranked_runs_make_the_front(board: Board) -> None:
    legend = "".join(chart(board_charts(board), "pareto").drawing.itertext())
    assert "front" in legend
    unranked = dataclasses.replace(board, runs=[one for one in board.runs if one.place is None])
    assert "front" not in "".join(chart(board_charts(unranked), "pareto").drawing.itertext())


def test_states_differ_in_shape(board: Board) -> None:
    found = marks(chart(board_charts(board), "pareto"))
    shapes = {
        name: (
            found[f"../../models/avbench--{name}.html"].tag,
            found[f"../../models/avbench--{name}.html"].get("class"),
        )
        for name in ("number-1", "limited", "sees")
    }
    assert shapes["number-1"] == ("circle", None)
    assert shapes["limited"] == shapes["sees"] == ("path", "hollow")
    assert len({re.sub(r"^M[\d. ]+", "", str(found[f"../../models/avbench--{n}.html"].get("d"))) for n in shapes}) == 3


def test_claims_stand_against_what_was_measured(board: Board) -> None:
    one = chart(board_charts(board), "reported")
    scored = run_of(board, "number-1").scored
    clean = value(scored, "clean-accuracy", CLEAN, NONE)
    avg = value(scored, "avg", "mean of XA, XV, XAV", "worst case")
    assert [row[1:] for row in one.rows] == [
        ("clean", 93.5, clean, pytest.approx(clean - 93.5)),
        ("worst-case Avg", 41.25, avg, pytest.approx(avg - 41.25)),
    ]
    places = [read_off(one.drawing, link[1]) for link in one.drawing.iter("a")]
    assert places == [pytest.approx((93.5, clean), abs=0.2), pytest.approx((41.25, avg), abs=0.2)]


def test_bars_are_the_share_of_each_class_that_every_attack_left(board: Board) -> None:
    entry = run_of(board, "number-2")
    frame = entry.scored.run.frame.copy()
    labels = {sample: i % 3 for i, sample in enumerate(sorted(frame["sample"].unique()))}
    frame["label"] = frame["sample"].map(labels)
    run = dataclasses.replace(entry.scored.run, frame=frame)
    one = chart(run_charts(Entry(board, dataclasses.replace(entry.scored, run=run))), "classes")
    assert board.card is not None
    assert {row[0] for row in one.rows} == set(board.card.classes[:3])
    told = [title.text for title in one.drawing.iter("title")]
    for row in one.rows:
        own = frame[frame["label"] == board.card.classes.index(str(row[0]))]
        clean = own[(own["threat"] == CLEAN) & (own["attack"] == NONE)].set_index("sample")["correct"]
        left = [
            (clean & own[own["threat"] == text].groupby("sample")["correct"].all()).mean() for text in board.threats
        ]
        shares = [100 * float(share) for share in (clean.mean(), *left)]
        assert [row[1], row[3], row[5], row[7]] == pytest.approx(shares)
        assert row[-1] == str(len(clean))
        for name, share in zip(("clean", "XA", "XV", "XAV"), shares, strict=True):
            assert f"{row[0]}, {name}: {share:.2f} %" in told


def test_a_class_stands_at_its_convexity_and_its_mean_drop_if_the_geometry_is_of_these_rows(board: Board) -> None:
    entry = run_of(board, "number-1")
    one = chart(run_charts(entry), "input-convexity")
    frame = entry.scored.run.frame
    share = {key: cell["correct"].mean() for key, cell in frame.groupby(["threat", "attack"])}
    drops = [100 * (share[CLEAN, NONE] - kept) for (threat, _), kept in share.items() if threat != CLEAN]
    assert board.card is not None
    assert [list(row) for row in one.rows] == [[board.card.classes[0], "0.7500", pytest.approx(np.mean(drops))]]
    for name in ("number-2", "limited"):
        assert not [one for one in run_charts(run_of(board, name)) if one.key.endswith("convexity")]


def test_there_is_no_chart_without_data(board: Board) -> None:
    one = dataclasses.replace(board, runs=[run_of(board, "number-2").scored])
    assert [found.key.rpartition("/")[2] for found in board_charts(one)] == ["pareto", "reliance"]


@pytest.mark.parametrize("wrong", [100.01, -0.01, float("nan")])
def test_a_share_outside_0_to_100_is_an_error(board: Board, wrong: float) -> None:
    with pytest.raises(DataError, match=r"cannot show .* as accuracy"):
        percent("accuracy").share(wrong)
    scored = run_of(board, "number-2").scored
    scores = scored.scores.copy()
    scores.loc[scores["metric"] == "clean-accuracy", "value"] = wrong
    changed = dataclasses.replace(board, runs=[dataclasses.replace(scored, scores=scores)])
    if wrong == wrong:
        with pytest.raises(DataError, match="cannot show"):
            board_charts(changed)
    else:  # a missing figure has no point
        assert [one.key.rpartition("/")[2] for one in board_charts(changed)] == ["reliance"]


def test_ticks_are_round_and_hold_all_values() -> None:
    draw = np.random.default_rng(1)
    for scale in (0.001, 1, 1000):
        values = (scale * draw.normal(size=7)).tolist()
        ticks = fitted("x", values).ticks
        assert ticks[0] <= min(values)
        assert max(values) <= ticks[-1]
        assert 4 <= len(ticks) <= 8
        step = ticks[1] - ticks[0]
        assert f"{step:.0e}"[0] in "125"
        assert all(abs(tick / step - round(tick / step)) < 1e-6 for tick in ticks)
    assert fitted("x", [3.0]).share(3.0) == 0.5


def test_16_curves_differ_without_color_and_names_beside_points_do_not_overlap() -> None:
    styles = [style_of(i) for i in range(16)]
    assert len({(style.shape, style.dash, style.hollow) for style in styles}) == 16
    draw = np.random.default_rng(2)
    spots = draw.uniform(0, 100, (40, 2)).tolist()
    points = [Point(x, y, f"a model {i}", f"{i}", f"{i}.html") for i, (x, y) in enumerate(spots)]
    drawing = scatter(percent("x"), percent("y"), {"": (Style(), points)})
    boxes = []
    for label in drawing.findall(".//text[@class='label']"):
        wide = width(label.text or "")
        left = float(label.attrib["x"]) - {"middle": wide / 2, "end": wide}.get(label.get("text-anchor", ""), 0)
        boxes.append((left, float(label.attrib["y"]) - 10, left + wide, float(label.attrib["y"])))
        assert left >= LEFT
    assert len(boxes) > 10
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_a_band_lies_around_its_curve() -> None:
    curve = Curve("XA", [(0, 90), (1, 50)], [(80, 95), (40, 60)])
    drawing = lines(fitted("r", [0, 1]), percent("accuracy"), [curve])
    band, line = (drawing.find(f".//{tag}") for tag in ("polygon", "polyline"))
    assert band is not None
    assert line is not None
    corners = [tuple(map(float, spot.split(","))) for spot in band.attrib["points"].split()]
    spots = [tuple(map(float, spot.split(","))) for spot in line.attrib["points"].split()]
    for (low, high), (x, y) in zip(((corners[0], corners[3]), (corners[1], corners[2])), spots, strict=True):
        assert low[0] == high[0] == x
        assert low[1] > y > high[1]


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """Real runs under several radii: of a linear model, and of one that claims to hear only."""
    results = tmp_path_factory.mktemp("curves")
    radii = (0.0, 0.02, 0.1)
    threats = [t for r in radii for t in (f"XA:linf:{r}", f"XV:linf:{r}", f"XAV:linf:{r}:linf:{r}")]
    for seed, about in enumerate(({"title": "both"}, {"title": "ears", "reference": "unimodal-audio"})):
        entered = dataclasses.replace(candidate(Linear(seed), f"toy-{seed}"), about=about)
        how = RunOptions(output_dir=results, batch_size=40)
        evaluate(entered, make_split(40), find_suite(None, tuple(threats), ("fgsm",)), how, quiet=True)
    [board] = make_boards(read_runs([results]))
    return board


def test_a_curve_has_the_score_at_each_radius_beside_models_that_read_one_modality(curves: Board) -> None:
    entry = next(entry for entry in Content([curves], []).models["toy-0"])
    found = run_charts(entry)
    assert [one.title for one in found] == ["Strength, worst case", "Strength of fgsm"]
    for one, metric, attack in zip(found, ("robust-accuracy", "attack-accuracy"), ("worst case", "fgsm"), strict=True):
        by_radius = sorted(curves.threats.items(), key=lambda item: max(b.radius for b in item[1].budgets.values()))
        wanted = []
        for scored, labels in ((entry.scored, ("XA", "XV", "XAV")), (run_of(curves, "toy-1").scored, ("XA",))):
            for label, (text, threat) in itertools.product(labels, by_radius):
                if threat.label == label:
                    name = label if scored is entry.scored else f"ears, {label}"
                    radius = max(budget.radius for budget in threat.budgets.values())
                    wanted.append((name, f"{radius:g}", value(scored, metric, text, attack)))
        assert [row[:3] for row in one.rows] == wanted
        legend = [text.text for text in one.drawing[-1].iter("text")]
        assert legend == ["XA", "XV", "XAV", "ears, XA"]
        assert len(one.drawing.findall(".//polygon")) == 3  # a reference has no band
        drawn = [read_off(one.drawing, group[1]) for group in one.drawing.iter("g") if group.find("title") is not None]
        places = [(float(radius), share) for _, radius, share in wanted]
        assert drawn == [pytest.approx(place, abs=0.2) for place in places]


def test_a_board_of_several_radii_has_a_curve_of_each_run(curves: Board) -> None:
    found = board_charts(curves)
    assert [one.title for one in found] == ["Strength of XA", "Strength of XV", "Strength of XAV"]
    for one, label in zip(found, ("XA", "XV", "XAV"), strict=True):
        budgets = {"XA": "linf:{0}", "XV": "linf:{0}", "XAV": "linf:{0}:linf:{0}"}[label]
        texts = [f"{label}:{budgets.format(radius)}" for radius in (0.0, 0.02, 0.1)]
        wanted = [value(scored, "robust-accuracy", text, "worst case") for scored in curves.runs for text in texts]
        assert [row[2] for row in one.rows] == wanted
        assert {link.attrib["href"] for link in one.drawing.iter("a")} == {
            f"../../models/toy-{i}.html" for i in range(2)
        }


def test_a_transfer_matrix_names_the_source_and_holds_the_accuracies(tmp_path: Path) -> None:
    sources = ("avbench--synthav-concat", "avbench--synthav-minsim")
    attacks = tuple(f"transfer:attack=fgsm,surrogates={source}" for source in sources)
    suite = find_suite(None, ("standard-transfer/XA", "standard-transfer/XAV"), attacks)
    how = RunOptions(output_dir=tmp_path, batch_size=4, limit=4)
    for name in ("sum", "film"):
        evaluate(open_model(f"avbench--synthav-{name}")[0], open_split("synthav", "test"), suite, how, quiet=True)
    [board] = make_boards(read_runs([tmp_path]))
    found = board_charts(board)
    assert [one.title for one in found] == ["Transfer under XA", "Transfer under XAV"]
    for one, text in zip(found, board.threats, strict=True):
        assert list(one.columns) == ["Model", "Clean, %", *(f"{source}, %" for source in sources)]
        assert "made by fgsm on" in one.text
        for scored, row in zip(board.runs, one.rows, strict=True):
            frame = scored.run.frame
            own = frame[frame["threat"] == text].groupby("attack")["correct"].mean()
            clean = frame[(frame["threat"] == CLEAN) & (frame["attack"] == NONE)]["correct"].mean()
            assert list(row) == [scored.run.record.model.title, 100 * clean, *(100 * own[one] for one in attacks)]
        shown = [text.text for text in one.drawing.iter("text")]
        assert all(f"{value:.2f}" in shown for row in one.rows for value in row[1:])
    path = board.runs[0].run.folder / "run.json"
    path.write_text(path.read_text(encoding="utf-8").replace(sources[0], HOSTILE[2:9]), encoding="utf-8")
    with pytest.raises(DataError, match="surrogates without a name"):
        board_charts(dataclasses.replace(board))


def test_hostile_names_stay_text_and_name_no_file(board: Board) -> None:
    found = [*board_charts(board), *run_charts(run_of(board, "hostile"))]
    for one in found:
        assert re.fullmatch(r"(boards|runs)/[a-z0-9-]+/([a-z0-9-]+/)?[a-z0-9-]+", one.key)
        for text in (one.inline, one.svg):
            tree = ET.fromstring(text)
            tags = {element.tag.removeprefix(SVG) for element in tree.iter()}
            assert tags <= {"svg", "g", "a", "title", "rect", "circle", "path", "polyline", "text"}, tags
            names = {name for element in tree.iter() for name in element.attrib}
            assert not {name for name in names if name == "style" or name.startswith("on")}
            assert "<script" not in text
    link = next(a for a in chart(found, "pareto").drawing.iter("a") if "hostile" in a.attrib["href"])
    assert (link.findtext("title") or "").startswith(visible(HOSTILE))
    assert link.attrib["aria-label"] == link.findtext("title")


def test_a_file_stands_alone(board: Board) -> None:
    one = chart(board_charts(board), "pareto")
    tree = ET.fromstring(one.svg)
    assert tree.tag == f"{SVG}svg"
    assert tree[0].text == one.title
    assert not [element for element in tree.iter() if element.tag == f"{SVG}a" or "href" in element.attrib]
    for element in tree.iter():  # all that a page colors by its class has a color of its own
        if element.get("class"):
            assert element.get("fill") or element.get("stroke"), element.attrib
    image = Image.open(io.BytesIO(one.png)).convert("RGB")
    assert image.size == tuple(round(1.5 * float(tree.attrib[side])) for side in ("width", "height"))
    pixels = np.asarray(image)
    assert (pixels[0, 0] == 255).all()
    assert (pixels == [int(COLORS[0][i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2).any()
    assert (pixels[: int(1.5 * 24), int(1.5 * 40) : int(1.5 * 80)] < 100).any()  # the legend's words


def test_pages_link_the_files_that_are_written_and_show_the_data(board: Board) -> None:
    content = Content([board], [])
    entries = content.models["avbench--number-1"]
    env = environment()
    html = env.get_template("board_charts.html.j2").render(board=board, root="../../")
    html += env.get_template("model_charts.html.j2").render(entries=entries, root="../../")
    small = Content([dataclasses.replace(board, runs=[one for one in board.runs if one is entries[0].scored])], [])
    files = dict(charts.files(small, lambda path, template, **_: (path, template)))
    assert {re.sub(r"^.*\.", "", name) for name in files} == {"svg", "png"}
    linked = set(re.findall(r'href="\.\./\.\./(charts/[^"]+)"', html))
    assert set(files) <= linked
    assert len(linked) == 2 * len([*board_charts(board), *run_charts(entries[0])])
    for one in run_charts(entries[0]):
        for row in one.rows:
            assert all((cell if isinstance(cell, str) else f"{cell:.2f}") in html for cell in row)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    known = set(re.findall(r"\.([a-z][a-z0-9]*)", (HERE / "assets" / "charts.css").read_text(encoding="utf-8")))
    inside = {
        name for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) for name in re.findall(r'class="(\w+)"', svg)
    }
    assert inside <= known


def test_a_board_of_300_runs_stays_small(board: Board) -> None:
    scored = run_of(board, "number-1").scored
    many = []
    for i in range(300):
        record = scored.run.record
        model = record.model.model_copy(update={"id": f"avbench--copy-{i}", "title": f"A model with a long name {i}"})
        run = dataclasses.replace(scored.run, record=record.model_copy(update={"model": model}))
        many.append(dataclasses.replace(scored, run=run))
    large = dataclasses.replace(board, runs=many)
    html = environment().get_template("board_charts.html.j2").render(board=large, root="../../")
    assert len(html.encode()) < 70_000
    one = chart(board_charts(large), "pareto")
    assert len(list(one.drawing.iter("a"))) == 20
    assert sum(path.attrib["d"].count("h0") for path in one.drawing.iter("path") if path.get("stroke-linecap")) == 280
    assert len(one.rows) == 300


def test_colors_can_be_seen_on_both_backgrounds() -> None:
    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    css = (HERE / "assets" / "charts.css").read_text(encoding="utf-8")
    colors = re.findall(r"--c\d: (#[0-9a-f]{6});", css)
    pages = re.findall(r"--page: (#[0-9a-f]{6});", (HERE / "assets" / "site.css").read_text(encoding="utf-8"))
    assert tuple(colors[:4]) == COLORS
    assert colors[4:8] == colors[8:]
    for own, page in ((colors[:4], pages[0]), (colors[4:], pages[1])):
        for color in own:
            high, low = sorted((luminance(color), luminance(page)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 3, (color, page)

"""Charts of a board: its runs against one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

from avbench.metrics import CLEAN, NONE, WORST_CASE
from avbench.metrics.avg import MEAN_OF_THREATS
from avbench.metrics.outcomes import TRIPLE
from avbench.site.boards import Board, Scored
from avbench.site.charts.chart import Chart, Value
from avbench.site.charts.looks import href_of, key_of, name_of, percent_of
from avbench.site.charts.plots import Guide, Line, Point, Spot, front, lines, scatter
from avbench.site.charts.strength import families
from avbench.site.charts.svg import Axis, Style, fitted, percent, shares
from avbench.site.charts.transfer import transfer_charts
from avbench.site.tables import WITHOUT_SCRIPT

STATES = {
    "ranked": Style(0, "circle"),
    "not ranked": Style(1, "diamond", hollow=True),
    "reads one modality": Style(2, "triangle", hollow=True),
}
DIAGONAL = [(0.0, 0.0), (100.0, 100.0)]
CURVES = 16  # that one field can hold
LINKED = 20  # runs that are links on a board of very many


def board_charts(board: Board) -> list[Chart]:
    """Make the charts for which a board has data."""
    return [*_pareto(board), *_reliance(board), *_strength(board), *_reported(board), *transfer_charts(board)]


def _state(scored: Scored) -> str:
    if scored.place is not None:
        return "ranked"
    return "reads one modality" if scored.run.record.model.unimodal else "not ranked"


def _threats(board: Board) -> dict[str, str]:
    """Text of the threat by XA, XV and XAV, where each is one."""
    return {threat.label: text for text, threat in board.threats.items()} if board.short else {}


def _worst(board: Board, scored: Scored, threat: str) -> float | None:
    return percent_of(scored, "mean-average-precision" if board.multilabel else "robust-accuracy", threat, WORST_CASE)


def _links(board: Board) -> int:
    """Tell how many runs, from the best, are links; the others are dots, so that a page stays small."""
    return LINKED if len(board.runs) > WITHOUT_SCRIPT else WITHOUT_SCRIPT


def _label(board: Board, scored: Scored) -> str:
    """Name a run without the words with which all names of the board begin."""
    same = takewhile(
        lambda words: len(set(words)) == 1, zip(*(name_of(one).split() for one in board.runs), strict=False)
    )
    words = name_of(scored).split()
    return " ".join(words[len(list(same)) :] or words)


def _spots(board: Board, found: Mapping[str, Spot], words: tuple[str, str]) -> dict[str, tuple[Style, list[Point]]]:
    """Sort runs into series."""
    series: dict[str, tuple[Style, list[Point]]] = {state: (style, []) for state, style in STATES.items()}
    for i, scored in enumerate(board.runs):
        if spot := found.get(scored.run.record.model.id):
            says = f"{name_of(scored)}: {words[0]} {spot[0]:.2f} %, {words[1]} {spot[1]:.2f} %"
            point = Point(*spot, _label(board, scored), says, href_of(scored)) if i < _links(board) else Point(*spot)
            series[_state(scored)][1].append(point)
    return series


def _rows(board: Board, found: Mapping[str, Spot]) -> list[tuple[Value, ...]]:
    ids = [(scored, scored.run.record.model.id) for scored in board.runs]
    return [(name_of(scored), _state(scored), *found[model]) for scored, model in ids if model in found]


def _pareto(board: Board) -> Iterator[Chart]:
    """Set clean against robust, and show what no ranked run beats in both."""
    threats = _threats(board)
    if not set(TRIPLE) <= set(threats):
        return
    what = "mAP" if board.multilabel else "accuracy"
    found: dict[str, Spot] = {}
    for scored in board.runs:
        metric = "mean-average-precision" if board.multilabel else "clean-accuracy"
        clean, worst = percent_of(scored, metric, CLEAN, NONE), [_worst(board, scored, threats[one]) for one in TRIPLE]
        whole = [value for value in worst if value is not None]
        if clean is not None and len(whole) == len(worst):
            average = percent_of(scored, "avg", MEAN_OF_THREATS, WORST_CASE)
            found[scored.run.record.model.id] = clean, sum(whole) / len(whole) if average is None else average
    if not found:
        return
    best = front([found[one.run.record.model.id] for one in board.ranked if one.run.record.model.id in found])
    guides = [Guide("Pareto front of ranked runs", best)] if best else []
    x = shares(f"clean {what} (%)", [clean for clean, _ in found.values()])
    y = percent(f"worst-case Avg of {what} (%)")
    yield Chart(
        key_of(board, "pareto"),
        "Clean against robust",
        f"Up and to the right is better. Avg is the mean worst-case {what} over XA, XV and XAV; clean is zoomed in."
        + (" No ranked run is better in both than one on the front." if best else ""),
        scatter(x, y, _spots(board, found, ("clean", "Avg")), guides),
        ("Model", "State", "Clean, %", "Avg, %"),
        _rows(board, found),
    )


def _reliance(board: Board) -> Iterator[Chart]:
    """Set XA against XV: which modality a model relies on."""
    threats = _threats(board)
    found: dict[str, Spot] = {}
    for scored in board.runs:
        values = [_worst(board, scored, threats[one]) for one in ("XA", "XV") if one in threats]
        if len(values) == 2 and values[0] is not None and values[1] is not None:
            found[scored.run.record.model.id] = values[0], values[1]
    if found:
        yield Chart(
            key_of(board, "reliance"),
            "Modality reliance",
            "Worst cases. Above the diagonal a model relies on sound: attacks on it break more; below, on the picture.",
            scatter(
                percent("XA, sound attacked (%)"),
                percent("XV, picture attacked (%)"),
                _spots(board, found, ("XA", "XV")),
                [Guide("both alike", DIAGONAL)],
            ),
            ("Model", "State", "XA, %", "XV, %"),
            _rows(board, found),
        )


def _strength(board: Board) -> Iterator[Chart]:
    """Make one field for each kind of threat that has several radii, one curve for each run."""
    for family in families(board.threats):
        drawn: list[Line] = []
        rows: list[tuple[str, float, float]] = []
        for scored in board.runs:
            values = [(radius, _worst(board, scored, text)) for radius, text in family.threats]
            spots = [(radius, value) for radius, value in values if value is not None]
            if spots:
                rows += [(name_of(scored), radius, value) for radius, value in spots]
                drawn.append(Line(name_of(scored), spots, (), href_of(scored), scored.run.record.model.unimodal))
        if drawn:
            some = f" The first {CURVES} of {len(drawn)} runs are drawn." if len(drawn) > CURVES else ""
            yield Chart(
                key_of(board, f"strength-{family.slug}"),
                f"Strength of {family.name}",
                f"Worst case over all attacks against the radius; gray curves read one modality.{some}",
                lines(_radii(rows), percent("robust (%)"), drawn[:CURVES]),
                ("Model", "Radius", "Robust, %"),
                [(name, f"{radius:g}", value) for name, radius, value in rows],
            )


def _radii(rows: Sequence[tuple[str, float, float]]) -> Axis:
    return fitted("radius of the attack", [radius for _, radius, _ in rows])


def _reported(board: Board) -> Iterator[Chart]:
    """Set what authors claim against what was measured."""
    series: dict[str, tuple[Style, list[Point]]] = {"clean": (Style(0), []), "worst-case Avg": (Style(1, "square"), [])}
    rows: list[tuple[Value, ...]] = []
    for i, scored in enumerate(board.runs):
        pairs = {
            "clean": ("clean", percent_of(scored, "clean-accuracy", CLEAN, NONE)),
            "worst-case Avg": ("robust", percent_of(scored, "avg", MEAN_OF_THREATS, WORST_CASE)),
        }
        for what, (field, got) in pairs.items():
            said = getattr(scored.claim, field, None)
            if said is not None and got is not None:
                says = f"{name_of(scored)}, {what}: reported {said:.2f} %, measured {got:.2f} %"
                named = (_label(board, scored), says, href_of(scored)) if i < _links(board) else ()
                series[what][1].append(Point(said, got, *named))
                rows.append((name_of(scored), what, said, got, got - said))
    if rows:
        yield Chart(
            key_of(board, "reported"),
            "Reported against measured",
            "Below the diagonal, less was measured than the authors report.",
            scatter(
                percent("reported (%)"), percent("measured (%)"), series, [Guide("measured as reported", DIAGONAL)]
            ),
            ("Model", "Figure", "Reported, %", "Measured, %", "Gap, points"),
            rows,
        )

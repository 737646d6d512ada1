"""`avbench pack`: a model as plain data, which anyone can evaluate without running its author's code."""

from __future__ import annotations

from pathlib import Path

import rich_click as click


@click.command()
@click.argument("model")
@click.option("--dataset", help="What the model was trained for; needed for FILE.py, others say it themselves.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
def pack(model: str, dataset: str | None, out: Path) -> None:
    """Write MODEL as graph.json and weights.safetensors, which need no code to be run.

    MODEL is FILE.py:FACTORY, whose factory returns the trained module and may take `classes` and `spec`, or what
    `avbench evaluate` takes. FILE.py is run.
    """
    from avbench.datasets.cards import names, read_card
    from avbench.errors import BadOption
    from avbench.graph.pack import pack as write
    from avbench.sandbox.code import CODE, load_code
    from avbench.submission import find_candidate

    if code := CODE.fullmatch(model):
        if not dataset:
            raise BadOption(f"add --dataset, what {code[1]} was trained for: {', '.join(names())}")
        card = read_card(dataset)
        module = load_code(Path(code[1]).resolve(), code[2], len(card.classes), card.spec, {})
    else:
        candidate, card = find_candidate(model, dataset)
        module = candidate.module
    packed = write(module, card, out)
    click.echo(f"{out}: {len(packed.graph.nodes)} nodes, for {card.name}, same bits as the model in eval mode")
    click.echo(f"now: avbench evaluate {out} --suite quick, or avbench submit new {out}")

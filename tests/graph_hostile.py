"""Load graphs that a stranger may send, in a process of its own: `graph_hostile.py FOLDER cases` or `FOLDER fuzz SECONDS`.

FOLDER holds what `avbench pack` wrote. One line of JSON a case: its name, the error, seconds, growth of memory in bytes.
"""

from __future__ import annotations

import copy
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from avbench.errors import AvbenchError, GraphError
from avbench.graph.load import build_graph
from avbench.graph.operators import OPERATORS
from avbench.graph.read import GRAPH, LIMITS, WEIGHTS, parse_graph

Content = dict[str, Any]
NUMBERS = [0, 1, -1, 2, 3, 7, 64, 4097, -64, 65536, 2**31 - 1, -(2**31) + 1, 2**31, 2**70, 0.5, -0.0, 1e308, 1e999]
OTHERS = [None, True, False, [], [[]], [1, 2], [-1], "same", "", "__import__('os')", "\x00", {"node": 0}, {"node": -1},
          {"node": 10**6}, {"weight": "nothing"}, {"input": "audio"}, {"input": "video"}, {"input": "labels"}, {"batch": 2**20},
          {"batch": 1}, {"dtype": "int64"}, {"dtype": "bool"}, {"float": "inf"}, {"memory_format": "channels_last"}, {}]  # fmt: skip


def appended(content: Content, op: str, *args: Any, **kwargs: Any) -> Content:
    """Put a node before the output that reads the output, so that it cannot be left out."""
    content["nodes"].append({"op": op, "args": list(args), **({"kwargs": kwargs} if kwargs else {})})
    content["nodes"].append({"op": "aten.mean.default", "args": [{"node": len(content["nodes"]) - 1}]})
    content["nodes"].append({"op": "aten.add.Tensor", "args": [content["output"], {"node": len(content["nodes"]) - 1}]})
    content["output"] = {"node": len(content["nodes"]) - 1}
    return content


def sized(content: Content, op: str, *args: Any) -> Content:
    content["nodes"].append({"op": op, "args": [content["output"], *args]})
    content["output"] = {"node": len(content["nodes"]) - 1}
    return content


def first(content: Content, op: str) -> list[Any]:
    """Arguments of the first call of an operator."""
    return next(node["args"] for node in content["nodes"] if node["op"] == op)  # type: ignore[no-any-return]


def setting(op: str, place: int, value: Any) -> Callable[[Content], Content]:
    def change(content: Content) -> Content:
        args = first(content, op)
        args += [0] * (place + 1 - len(args))
        args[place] = value
        return content

    return change


def replaced(**keys: Any) -> Callable[[Content], Content]:
    return lambda content: content | keys


AUDIO, SHORT = {"input": "audio"}, [{"input": "audio"}, 1, 0, 4]
CONTENTS: dict[str, Callable[[Content], Any]] = {
    "unknown operator": lambda c: sized(c, "aten.from_file.default", "/etc/passwd"),
    "dunder operator": lambda c: sized(c, "__import__"),
    "attribute of an operator": lambda c: sized(c, "aten.add.Tensor.__globals__"),
    "operator that is no text": lambda c: sized(c, ["aten.add.Tensor"]),  # type: ignore[arg-type]
    "in-place operator": lambda c: sized(c, "aten.add_.Tensor", 1),
    "random operator": lambda c: sized(c, "aten.randn_like.default"),
    "dropout in attention": setting("aten.scaled_dot_product_attention.default", 4, 0.5),
    "statistics that would change": lambda c: appended(
        c, "aten.instance_norm.default", {"input": "video"}, None, None, {"weight": weights(c)[0]}, {"weight": weights(c)[0]}, True, 0.1, 1e-5, False),
    "forward reference": lambda c: sized(c, "aten.add.Tensor", {"node": len(c["nodes"]) + 1}),
    "reference to itself": lambda c: sized(c, "aten.add.Tensor", {"node": len(c["nodes"])}),
    "undefined weight": lambda c: sized(c, "aten.add.Tensor", {"weight": "nothing"}),
    "weight named as code": lambda c: sized(c, "aten.add.Tensor", {"weight": "__import__('os').system('touch canary')"}),
    "weight that shadows another": lambda c: c | {"weights": {"a": [1]}},
    "unknown input": lambda c: sized(c, "aten.add.Tensor", {"input": "labels"}),
    "device": lambda c: c["nodes"].append({"op": "aten.zeros.default", "args": [[1]], "kwargs": {"device": "cuda"}}) or c,
    "out": lambda c: c["nodes"].append({"op": "aten.abs.default", "args": [AUDIO], "kwargs": {"out": AUDIO}}) or c,
    "unknown keyword": lambda c: c["nodes"].append({"op": "aten.abs.default", "args": [AUDIO], "kwargs": {"x y": 1}}) or c,
    "60,000 nodes": lambda c: c | {"nodes": [{"op": "aten.abs.default", "args": [AUDIO]}] * 60_000},
    "zeros of 2^40": lambda c: appended(c, "aten.zeros.default", [1048576, 1048576]),
    "zeros of 2^62": lambda c: appended(c, "aten.zeros.default", [2**31 - 1, 2**31 - 1]),
    "an endless range": lambda c: appended(c, "aten.arange.start_step", 0, 2**31 - 1, 1e-30),
    "a doubling a node": lambda c: c["nodes"].extend(doubling(len(c["nodes"]))) or c,
    "lstm of 2^31 layers": setting("aten.lstm.input", 4, 2**31 - 1),
    "lstm of -1 layers": setting("aten.lstm.input", 4, -1),
    "lstm of 2 layers, weights of 1": setting("aten.lstm.input", 4, 2),
    "lstm with weights of another shape": lambda c: first(c, "aten.lstm.input")[2].reverse() or c,
    "lstm without weights": setting("aten.lstm.input", 2, []),
    "lstm both ways": setting("aten.lstm.input", 7, True),
    "lstm in training": setting("aten.lstm.input", 6, True),
    "gru of 2^31 layers": setting("aten.gru.input", 4, 2**31 - 1),
    "gru without weights": setting("aten.gru.input", 2, []),
    "max_pool1d with a window of 0": setting("aten.max_pool1d.default", 1, [0]),
    "max_pool1d with a window of -1": setting("aten.max_pool1d.default", 1, [-1]),
    "max_pool1d with a step of 0": setting("aten.max_pool1d.default", 2, [0]),
    "max_pool1d with a negative padding": setting("aten.max_pool1d.default", 3, [-5]),
    "max_pool1d with a huge dilation": setting("aten.max_pool1d.default", 4, [2**31 - 1]),
    "max_pool1d with a negative dilation": setting("aten.max_pool1d.default", 4, [-3]),
    "conv2d with a step of 0": setting("aten.conv2d.default", 3, [0, 0]),
    "conv2d with a huge padding": setting("aten.conv2d.default", 4, [2**30, 2**30]),
    "stft with a window of 2^31": setting("aten.stft.default", 1, 2**31 - 1),
    "stft with a step of 0": setting("aten.stft.default", 2, 0),
    "output of wrong shape": lambda c: sized(c, "aten.flatten.using_ints", 0),
    "output without a batch": lambda c: sized(c, "aten.mean.dim", [0], True),
    "output of another type": lambda c: double(c),
    "output that is not there": replaced(output={"node": 10**6}),
    "output that is a weight": lambda c: c | {"output": {"weight": weights(c)[0]}},
    "batch-mixing": lambda c: sized(c, "aten.softmax.int", 0),
    "batch-mixing behind a gate": lambda c: gated(c),
    "reads nothing": lambda c: c | {"nodes": [{"op": "aten.zeros.default", "args": [[{"batch": 1}, c["classes"]]]}], "output": {"node": 0}},
    "another format": replaced(format="avbench-graph@2"),
    "more keys": replaced(code="import os"),
    "no classes": replaced(classes=0),
    "classes as text": replaced(classes="4"),
    "huge input": lambda c: c | {"inputs": {"audio": [2**31 - 1], "video": [2**30, 3, 2**30, 2**30]}},
    "shape of size 0": lambda c: c | {"inputs": c["inputs"] | {"audio": [0]}},
    "hostile dataset": replaced(dataset="../" * 90),
    "an item that is a number": lambda c: sized(c, "aten.abs.default") | {"nodes": [*c["nodes"], {"op": "item", "args": [[3], 0]}]},
    "a list of lists": lambda c: sized(c, "aten.add.Tensor", [[[[[[1]]]]]]),
    "a long list": lambda c: sized(c, "aten.mean.dim", [0] * 5000),
    "a list as a graph": lambda c: [c],
    "a node that is a number": lambda c: c["nodes"].append(3) or c,
    "arguments that are an object": lambda c: c["nodes"].append({"op": "aten.abs.default", "args": {"x": 1}}) or c,
}  # fmt: skip


NOT_IN_TABLE, KEYS = "not in the table of operators", "is an object with the keys"
REASONS = {
    **dict.fromkeys(["unknown operator", "dunder operator", "attribute of an operator", "operator that is no text",
                     "in-place operator", "random operator"], NOT_IN_TABLE),
    **dict.fromkeys(["weight that shadows another", "more keys", "a list as a graph", "a node that is a number"], KEYS),
    **dict.fromkeys(["device", "out", "arguments that are an object"], "args is a list, kwargs an object"),
    **dict.fromkeys(["forward reference", "reference to itself", "output that is not there"], "a node before it"),
    **dict.fromkeys(["undefined weight", "weight named as code"], "graph and its weights differ"),
    **dict.fromkeys(["a list of lists", "a long list"], "an argument that the format does not know"),
    **dict.fromkeys(["lstm of 2^31 layers", "gru of 2^31 layers", "lstm without weights", "gru without weights",
                     "lstm of 2 layers, weights of 1", "lstm both ways"], "weights of each layer and direction"),
    **dict.fromkeys(["output of wrong shape", "output without a batch", "output of another type"], "not float32 logits"),
    **dict.fromkeys(["batch-mixing", "batch-mixing behind a gate"], "lets one sample change the answer on another"),
    **dict.fromkeys(["zeros of 2^40", "a doubling a node"], "elements"), "zeros of 2^62": "overflow",
    "dropout in attention": "drop out", "statistics that would change": "keep statistics", "unknown input": "labels",
    "unknown keyword": "aten.abs", "an item that is a number": "one of several results", "60,000 nodes": "at most 20000", "an endless range": "arange",
    "lstm of -1 layers": "at least 1", "lstm with weights of another shape": "has a weight 0",
    "lstm in training": "eval mode", "max_pool1d with a window of 0": "at least 1",
    "max_pool1d with a window of -1": "at least 1", "max_pool1d with a step of 0": "at least 1",
    "max_pool1d with a negative padding": "at least 0", "max_pool1d with a huge dilation": "output size",
    "max_pool1d with a negative dilation": "at least 1", "conv2d with a step of 0": "conv2d",
    "conv2d with a huge padding": "conv2d", "stft with a window of 2^31": "stft", "stft with a step of 0": "stft",
    "output that is a weight": "output is", "reads nothing": "reads neither", "another format": "format is",
    "no classes": "classes is", "classes as text": "classes is", "huge input": "size of an input",
    "shape of size 0": "size of an input", "hostile dataset": "dataset is",
    "duplicate key": "given twice", "NaN": "NaN", "Infinity": "-Infinity", "2^70": "integer beyond",
    "5000 digits": "integer beyond", "1e999": "cannot be held", "100,000 deep": "nested", "100,000 objects deep": "nested",
    "too large": "more than 4194304 bytes", "a lone surrogate": "format is",
    **dict.fromkeys(["empty", "not UTF-8", "a byte order mark", "truncated", "trailing", "zip"], "is not JSON"),
}  # fmt: skip


def raw(content: Content) -> dict[str, bytes]:
    """Hostile files that no JSON writer makes."""
    text = json.dumps(content)
    return {
        "duplicate key": text.replace('"classes"', '"classes": 4, "classes"').encode(),
        "NaN": text.replace('"args": [', '"args": [NaN, ', 1).encode(),
        "Infinity": text.replace('"args": [', '"args": [-Infinity, ', 1).encode(),
        "2^70": text.replace('"args": [', f'"args": [{2**70}, ', 1).encode(),
        "5000 digits": text.replace('"args": [', f'"args": [{"9" * 5000}, ', 1).encode(),
        "1e999": text.replace('"args": [', '"args": [1e999, ', 1).encode(),
        "100,000 deep": text.replace('"args": [', f'"args": [{"[" * 100_000}{"]" * 100_000}, ', 1).encode(),
        "100,000 objects deep": ('{"a":' * 100_000 + "1" + "}" * 100_000).encode(),
        "empty": b"",
        "not UTF-8": b"\xff\xfe" + text.encode("utf-16"),
        "a byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "truncated": text.encode()[: len(text) // 2],
        "trailing": text.encode() + b"{}",
        "too large": text.encode() + b" " * LIMITS.file_bytes,
        "zip": b"PK\x03\x04" + bytes(1000),
        "a lone surrogate": text.replace("avbench-graph@1", "\\ud800").encode(),
    }


def weights(content: Content) -> list[str]:
    found = []

    def look(value: Any) -> None:
        if isinstance(value, dict) and set(value) == {"weight"}:
            found.append(value["weight"])
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            look(part)

    look(content)
    return found


def doubling(start: int) -> Iterator[Content]:
    yield {"op": "aten.cat.default", "args": [[AUDIO, AUDIO], 1]}
    for node in range(start, start + 39):
        yield {"op": "aten.cat.default", "args": [[{"node": node}, {"node": node}], 1]}


def double(content: Content) -> Content:
    """Answer in float64."""
    sized(content, "aten._to_copy.default")
    content["nodes"][-1]["kwargs"] = {"dtype": {"dtype": "float64"}}
    return content


def gated(content: Content) -> Content:
    """Add another sample's scores times zero, unless it is very loud."""
    score = content["output"]
    sized(content, "aten.sub.Scalar", 1e6)
    sized(content, "aten.relu.default")
    sized(content, "aten.flip.default", [0])
    return sized(content, "aten.add.Tensor", score)


def load(data: bytes, state: dict[str, Any], content: Any = None) -> tuple[str, str]:
    """Name the error and its message, or say that nothing was refused; of the weights only what the graph names."""
    if content is not None:
        state = {name: state[name] for name in set(weights(content)) & set(state)}
    try:
        build_graph(parse_graph(data), state)
    except AvbenchError as error:
        assert len(str(error)) < 1000, str(error)[:2000]
        return type(error).__name__, str(error)
    return "none", ""


def mutated(content: Content, draw: random.Random) -> Content:
    """Change one to three places anywhere."""
    content = copy.deepcopy(content)
    for _ in range(draw.randint(1, 3)):
        places: list[tuple[Any, Any]] = []
        waiting: list[Any] = (
            [draw.choice(content["nodes"])] if draw.random() < 0.9 and content.get("nodes") else [content]
        )
        while waiting:
            here = waiting.pop()
            inner = (
                list(here.items())
                if isinstance(here, dict)
                else list(enumerate(here))
                if isinstance(here, list)
                else []
            )
            places += [(here, key) for key, _ in inner]
            waiting += [value for _, value in inner]
        if not places:
            continue
        where, key = draw.choice(places)
        kind = draw.random()
        if kind < 0.1:
            del where[key]
        elif kind < 0.2 and isinstance(where, list):
            where.insert(key, copy.deepcopy(draw.choice(where)))
        elif key == "op":
            where[key] = draw.choice(sorted(OPERATORS))
        else:
            where[key] = copy.deepcopy(
                draw.choice([*NUMBERS, *OTHERS, {"node": draw.randrange(len(content["nodes"]) or 1)}])
            )
        if not isinstance(content.get("nodes"), list) or not all(isinstance(n, dict) for n in content["nodes"]):
            break
    return content


def fuzz(content: Content, state: dict[str, Any], seconds: float) -> None:
    """Let hypothesis choose what changes; anything but a named error ends the process with its trace."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    started, seen = time.process_time(), {"none": 0, "refused": 0}

    @settings(
        max_examples=3000, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.randoms(use_true_random=False))
    def mutation(draw: random.Random) -> None:
        data = json.dumps(mutated(content, draw)).encode()
        if time.process_time() - started < seconds:
            Path("last.json").write_bytes(data)
            found, _ = load(data, state)
            assert found in ("none", "GraphError", "NonFiniteWeights"), found
            seen["none" if found == "none" else "refused"] += 1

    mutation()
    print(json.dumps({"name": "fuzz", **seen}))


def main() -> None:
    """Run what the command line says, in an empty folder."""
    folder, mode = Path(sys.argv[1]).resolve(), sys.argv[2]
    content, state = json.loads((folder / GRAPH).read_bytes()), load_file(folder / WEIGHTS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    assert load(json.dumps(content).encode(), state) == ("none", ""), "the model itself loads"
    resource.setrlimit(resource.RLIMIT_AS, (memory := 4 * 2**30 + virtual(), memory))
    if mode == "fuzz":
        fuzz(content, state, float(sys.argv[3]))
        return
    changed = {name: change(copy.deepcopy(content)) for name, change in CONTENTS.items()}
    cases = {name: json.dumps(made).encode() for name, made in changed.items()} | raw(content)
    for name, data in cases.items():
        print(json.dumps({"name": name, "begun": True}), flush=True)
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        error, message = load(data, state, changed.get(name))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(
            json.dumps(
                {
                    "name": name,
                    "error": error,
                    "message": message,
                    "seconds": time.process_time() - started,
                    "bytes": grown * 1024,
                }
            ),
            flush=True,
        )
    assert all(not v.is_meta and v.isfinite().all() for v in state.values())
    assert os.listdir() == [], "nothing was written"


def virtual() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    assert issubclass(GraphError, AvbenchError)
    main()

"""Weights files that a stranger may send, made and opened in a process of its own: `hostile_files.py KIND`.

One line of JSON a file: its name, the error and its message, seconds, growth of memory in bytes. Whatever runs code
leaves a canary in the current folder.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn

from avbench.checkpoint import HEADER, read_checkpoint
from avbench.datasets.cards import read_card
from avbench.errors import AvbenchError
from avbench.models import build

CARD = read_card("synthav")
ARGUMENTS = {"width": 4}
STATE = {name: tensor.contiguous() for name, tensor in build("avnet", 8, CARD.spec, ARGUMENTS).state_dict().items()}
SAYS = {HEADER: json.dumps({"architecture": "avnet", "arguments": ARGUMENTS})}
SHORT = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.int64)}


class Evil:
    """Leave a canary when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch canary",)


class Custom:
    """A class of the author's, as Lightning checkpoints hold."""


class Member(NamedTuple):
    """One member of a zip archive, and what the archive claims of it."""

    name: str
    data: bytes
    method: int = zipfile.ZIP_STORED
    size: int | None = None  # claimed
    at: int | None = None  # claimed place


def zipped(members: list[Member]) -> bytes:
    """Write a zip archive that may lie."""
    out, directory = b"", b""
    for one in members:
        name, size = one.name.encode(), len(one.data) if one.size is None else one.size
        sizes = struct.pack("<IIIHH", zlib.crc32(one.data), len(one.data), min(size, 2**32 - 1), len(name), 0)
        head = struct.pack("<HHHHH", 20, 0x800, one.method, 0, 33)
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + head + sizes + struct.pack("<HHHI", 0, 0, 0, 0)
        directory += struct.pack("<I", len(out) if one.at is None else one.at) + name
        out += b"PK\x03\x04" + head + sizes + name + one.data
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(out), 0)
    return out + directory + b"PK\x05\x06" + end


def members(content: Any) -> list[Member]:
    """What torch.save writes, member by member."""
    with zipfile.ZipFile(io.BytesIO(saved(content))) as archive:
        return [Member(one.filename, archive.read(one)) for one in archive.infolist()]


def saved(content: Any, modern: bool = True) -> bytes:
    torch.save(content, out := io.BytesIO(), _use_new_zipfile_serialization=modern)
    return out.getvalue()


def changed(content: Any, end: str, change: Callable[[Member], Member]) -> bytes:
    """What torch.save writes, with one member changed."""
    return zipped([change(one) if one.name.endswith(end) else one for one in members(content)])


def described(steps: bytes) -> bytes:
    """A zip whose pickle takes these steps."""
    return changed(SHORT, "data.pkl", lambda one: one._replace(data=b"\x80\x02" + steps + b"."))


def legacy(steps: bytes) -> bytes:
    """The same as before PyTorch 1.6, without storages."""
    heads = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(heads) + b"\x80\x02" + steps + b"." + pickle.dumps([], 2)


def replaced(old: bytes, new: bytes) -> bytes:
    assert any(old in one.data for one in members(SHORT))
    return changed(SHORT, "data.pkl", lambda one: one._replace(data=one.data.replace(old, new)))


def bomb() -> bytes:
    """Four GiB of zeros, deflated to four MiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    data = block * 4096 + packer.flush(zlib.Z_FINISH)
    return changed(SHORT, "data/0", lambda one: Member(one.name, data, zipfile.ZIP_DEFLATED, 2**32 - 1))


def csr() -> Tensor:
    wild = torch.tensor([0, 2**40, -(2**50)]), torch.tensor([2**40, -5]), torch.ones(2)
    return torch.sparse_csr_tensor(*wild, size=(2, 2), check_invariants=False)


def script() -> bytes:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), out := io.BytesIO())
    return out.getvalue()


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


COLLIDING = b"}(" + b"".join(number(k * (2**61 - 1)) + b"N" for k in range(1, 60_001)) + b"u"
BYTEARRAY = b"c__builtin__\nbytearray\n" + number(2**33) + b"\x85R"
SELF = b"}q\x00" + text("state_dict") + b"h\x00s"
DEEP = b")" + b"\x85" * 300_000
ORDERED = b"ccollections\nOrderedDict\n"
ONE = b"K\x02K\x03\x86"  # the shape of SHORT's first tensor, in its pickle
UNSAFE, WRONG = "UnsafeCheckpoint", "CheckpointError"
NOT_WEIGHTS, NOT_TORCH, NO_STATE = "more than weights", "not a PyTorch checkpoint", "no state dict"

# Name, or name and suffix: what makes the bytes, the error, and its reason.
CHECKPOINTS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "os.system.pt": (lambda: saved({"w": Evil()}), UNSAFE, NOT_WEIGHTS),
    "os.system in a legacy file.pt": (lambda: saved({"w": Evil()}, False), UNSAFE, NOT_WEIGHTS),
    "os.system in a bare pickle.pt": (lambda: pickle.dumps(Evil(), 2), UNSAFE, NOT_WEIGHTS),
    "eval by its name.pt": (lambda: described(b"c__builtin__\neval\n" + text("open('canary','w')") + b"\x85R"), UNSAFE, NOT_WEIGHTS),
    "code in an attribute.pt": (lambda: described(ORDERED + b")R}" + text("x") + b"cos\nsystem\nsb"), UNSAFE, NOT_WEIGHTS),
    "a class in Lightning's callbacks.ckpt": (lambda: saved({"state_dict": STATE, "callbacks": {"x": Custom()}}), UNSAFE, NOT_WEIGHTS),
    "an instance by INST.pt": (lambda: described(b"(" + text("touch canary") + b"ios\nsystem\n"), UNSAFE, NOT_WEIGHTS),
    "a name from the stack.pt": (lambda: described(text("os") + text("system") + b"\x93" + text("touch canary") + b"\x85R"), UNSAFE, NOT_WEIGHTS),
    "an extension of copyreg.pt": (lambda: described(b"\x82\x01"), UNSAFE, NOT_WEIGHTS),
    "data.pkl twice.pt": (lambda: zipped([*members(SHORT), Member("archive/data.pkl", pickle.dumps(Evil()))]), UNSAFE, "repeated"),
    "members that overlap.pt": (lambda: changed(SHORT, "data/1", lambda one: one._replace(at=0)), UNSAFE, "overlap"),
    "a member larger than the file.pt": (lambda: changed(SHORT, "data/1", lambda one: one._replace(size=2**31)), UNSAFE, "compressed or repeated"),
    "a deflated bomb.pt": (bomb, UNSAFE, "compressed"),
    "a member that only claims to be deflated.pt": (lambda: changed(SHORT, "data/0", lambda one: one._replace(method=zipfile.ZIP_DEFLATED)), UNSAFE, "compressed"),
    "a way out of the folder.pt": (lambda: zipped([*members(SHORT), Member("archive/../../canary", b"x")]), UNSAFE, "has a member"),
    "an absolute member.pt": (lambda: zipped([*members(SHORT), Member("/canary", b"x")]), UNSAFE, "has a member"),
    "a member with an escape.pt": (lambda: zipped([*members(SHORT), Member("archive/\x1b[31m", b"x")]), UNSAFE, "has a member"),
    "a directory of 100 MiB.pt": (lambda: b"PK\x03\x04" + bytes(100 << 20) + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 100 << 20, 4, 0), WRONG, "a head of"),
    "60,000 members.pt": (lambda: zipped([Member(f"a/{k}", b"") for k in range(60_000)]), WRONG, NOT_TORCH),
    "a zip without a pickle.pt": (lambda: zipped([Member("archive/version", b"3")]), WRONG, NOT_TORCH),
    "another byte order.pt": (lambda: changed(SHORT, "byteorder", lambda one: one._replace(data=b"big")), WRONG, "big-endian"),
    "bytearray of 2^33.pt": (lambda: described(BYTEARRAY), WRONG, NO_STATE),
    "bytearray of 2^33 in a legacy file.pt": (lambda: legacy(BYTEARRAY), WRONG, NO_STATE),
    "bytearray of 2^33 as a weight.pt": (lambda: described(b"}" + text("w") + BYTEARRAY + b"s"), WRONG, "other tensor"),
    "a storage of 2^40.pt": (lambda: replaced(b"K\x06t", number(2**40) + b"t"), WRONG, "claims"),
    "a storage of -1.pt": (lambda: replaced(b"K\x06t", number(-1) + b"t"), WRONG, "storage that cannot be"),
    "a storage that is not there.pt": (lambda: replaced(text("0"), text("7")), WRONG, "claims"),
    "a storage outside.pt": (lambda: replaced(text("0"), text("../../canary")), WRONG, "claims"),
    "a shape of 2^40.pt": (lambda: replaced(ONE, number(2**20) * 2 + b"\x86"), WRONG, "stored for it"),
    "a shape that overflows.pt": (lambda: replaced(ONE, number(2**40) * 2 + b"\x86"), WRONG, "shape that cannot be"),
    "a shape of -1.pt": (lambda: replaced(ONE, number(-1) + b"K\x03\x86"), WRONG, "shape that cannot be"),
    "a stride of 2^40.pt": (lambda: replaced(b"K\x03K\x01\x86", number(2**40) + b"K\x01\x86"), WRONG, "stored for it"),
    "a stride of 2^70.pt": (lambda: replaced(b"K\x03K\x01\x86", number(2**70) + b"K\x01\x86"), WRONG, "stride that cannot be"),
    "an offset of 2^40.pt": (lambda: replaced(b"QK\x00" + ONE, b"Q" + number(2**40) + ONE), WRONG, "stored for it"),
    "an offset of -1.pt": (lambda: replaced(b"QK\x00" + ONE, b"Q" + number(-1) + ONE), WRONG, "offset or a stride"),
    "one number as 2^40.pt": (lambda: saved({"w": torch.zeros(1).expand(2**40)}), WRONG, "stored for it"),
    "a meta tensor of 2^50.pt": (lambda: saved({"w": torch.empty(2**50, device="meta")}), WRONG, "meta"),
    "a sparse tensor with wild indices.pt": (lambda: saved({"w": csr()}), WRONG, "sparse"),
    "a quantized tensor.pt": (lambda: saved({"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}), WRONG, "quantized"),
    "60,000 keys that collide.pt": (lambda: described(COLLIDING), WRONG, NO_STATE),
    "60,000 keys that collide, legacy.pt": (lambda: legacy(COLLIDING), WRONG, NO_STATE),
    "a dictionary in itself.pt": (lambda: described(SELF), WRONG, "no tensor"),
    "a tuple 300,000 deep.pt": (lambda: described(DEEP), WRONG, NO_STATE),
    "a tuple 300,000 deep, legacy.pt": (lambda: legacy(DEEP), WRONG, NO_STATE),
    "a list in itself, 300,000 times.pt": (lambda: described(b"]q\x00" + b"h\x00a" * 300_000), WRONG, NO_STATE),
    "a dictionary copied 100,000 times.pt": (lambda: described(b"](" + b"]" * 1000 + b"eq\x00" + (ORDERED + b"h\x00\x85R") * 100_000), WRONG, NO_STATE),
    "two million steps.pt": (lambda: described(b"N" * 2_000_000), UNSAFE, "steps"),
    "a pickle of 9 MiB.pt": (lambda: described(b"N" * (9 << 20)), WRONG, "a head of"),
    "a number of 5000 digits.pt": (lambda: described(b"L" + b"9" * 5000 + b"L\n"), WRONG, NOT_TORCH),
    "a word of 2^63.pt": (lambda: described(b"\x8d" + struct.pack("<Q", 2**63) + b"x"), WRONG, NOT_TORCH),
    "an empty stack.pt": (lambda: described(b"\x87u"), WRONG, NOT_TORCH),
    "no end.pt": (lambda: changed(SHORT, "data.pkl", lambda one: one._replace(data=b"\x80\x02N")), WRONG, NOT_TORCH),
    "the same weight twice.pt": (lambda: replaced(text("b"), text("a")), WRONG, "given twice"),
    "a weight's name that hides.pt": (lambda: replaced(text("b"), text("b\u202e")), WRONG, "a weight named"),
    "a legacy storage of 2^62.pt": (lambda: saved(SHORT, False).replace(struct.pack("<Q", 6), struct.pack("<Q", 2**62)), WRONG, "truncated"),
    "a legacy file with more.pt": (lambda: saved(SHORT, False) + b"more", WRONG, NOT_TORCH),
    "TorchScript.pt": (script, UNSAFE, ""),
    "a width of 10^9 that would fill memory.ckpt": (lambda: saved({"state_dict": SHORT, "hyper_parameters": {"architecture": "avnet", "arguments": {"width": 10**9}}}), "ArchitectureMismatch", "cannot be built"),
    "a width of 3000 for few weights.ckpt": (lambda: saved({"state_dict": SHORT, "hyper_parameters": {"architecture": "avnet", "arguments": {"width": 3000}}}), "ArchitectureMismatch", "does not fit"),
    "NaN.ckpt": (lambda: saved({"state_dict": STATE | {"classifier.bias": torch.full((8,), torch.nan)}, "hyper_parameters": {"architecture": "avnet", "arguments": ARGUMENTS}}), "NonFiniteWeights", "classifier.bias"),
}  # fmt: skip


def tensors(header: Any, data: int = 0, length: int | None = None) -> bytes:
    """A safetensors file of this header and so many bytes."""
    words = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(words) if length is None else length) + words + bytes(data)


def entry(*, dtype: Any = "F32", shape: Any = (2,), at: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": at}


def many() -> bytes:
    return tensors({f"{k:x}": entry(dtype="U8", shape=[0], at=[0, 0]) for k in range(300_000)})


SAFETENSORS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "a header of 2^63": (lambda: tensors({}, 100, 2**63), WRONG, "a header of"),
    "a header of 2^64 - 1": (lambda: tensors({}, 100, 2**64 - 1), WRONG, "a header of"),
    "a header of 99 MB": (lambda: tensors(b" " * 99_000_000), WRONG, "a header of"),
    "a header longer than the file": (lambda: tensors({}, 0, 100), WRONG, "a header of"),
    "an empty header": (lambda: tensors(b"", 8), WRONG, "a header of"),
    "a key twice": (lambda: tensors(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), 8), WRONG, "given twice"),
    "metadata twice": (lambda: tensors(b'{"__metadata__":{"a":"b","a":"c"}}'), WRONG, "given twice"),
    "300,000 tensors": (many, WRONG, "a header"),
    "20,000 tensors": (lambda: tensors({f"{k:x}": entry(dtype="U8", shape=[0], at=[0, 0]) for k in range(20_000)}), WRONG, "at most 10000"),
    "a name with an escape": (lambda: tensors({"\x1b[2J": entry()}, 8), WRONG, "a weight named"),
    "a name that hides": (lambda: tensors({"a\u202eb": entry()}, 8), WRONG, "a weight named"),
    "a name of zero width": (lambda: tensors({"\u200b": entry()}, 8), WRONG, "a weight named"),
    "an empty name": (lambda: tensors({"": entry()}, 8), WRONG, "a weight named"),
    "a name of 100,000": (lambda: tensors({"a" * 100_000: entry()}, 8), WRONG, "a weight named"),
    "a lone surrogate": (lambda: tensors(b'{"\\ud800":' + json.dumps(entry()).encode() + b"}", 8), WRONG, "a weight named"),
    "a shape that overflows": (lambda: tensors({"a": entry(shape=[2**32, 2**32, 2])}, 8), WRONG, "cannot be"),
    "a shape that overflows to nothing": (lambda: tensors({"a": entry(shape=[2**52, 2**10], at=[0, 0])}), WRONG, "cannot be"),
    "nothing of a huge shape": (lambda: tensors({"a": entry(shape=[0, 2**52, 2**52], at=[0, 0])}), WRONG, "cannot be"),
    "a shape of -1": (lambda: tensors({"a": entry(shape=[-2])}, 8), WRONG, "cannot be"),
    "a shape of 2.0": (lambda: tensors({"a": entry(shape=[2.0])}, 8), WRONG, "cannot be"),
    "a shape of true": (lambda: tensors({"a": entry(shape=[True, 2])}, 8), WRONG, "cannot be"),
    "10,000 dimensions": (lambda: tensors({"a": entry(shape=[1] * 10_000)}, 8), WRONG, "cannot be"),
    "a shape that is no list": (lambda: tensors({"a": entry(shape="2")}, 8), WRONG, "cannot be"),
    "other bytes than the shape": (lambda: tensors({"a": entry(shape=[3])}, 8), WRONG, "does not fit"),
    "offsets that go back": (lambda: tensors({"a": entry(at=[8, 0])}, 8), WRONG, "does not fit"),
    "offsets of -8": (lambda: tensors({"a": entry(at=[-8, 0])}, 8), WRONG, "cannot be"),
    "offsets of 2^70": (lambda: tensors({"a": entry(at=[2**70, 2**70 + 8])}, 8), WRONG, "integer beyond"),
    "three offsets": (lambda: tensors({"a": entry(at=[0, 8, 8])}, 8), WRONG, "cannot be"),
    "float8": (lambda: tensors({"a": entry(dtype="F8_E4M3", shape=[8])}, 8), WRONG, "not one of"),
    "float4": (lambda: tensors({"a": entry(dtype="F4", shape=[16])}, 8), WRONG, "not one of"),
    "a dtype that is a list": (lambda: tensors({"a": entry(dtype=["F32"])}, 8), WRONG, "not one of"),
    "a hole": (lambda: tensors({"a": entry(), "b": entry(at=[16, 24])}, 24), WRONG, "hole"),
    "a hole before all": (lambda: tensors({"a": entry(at=[8, 16])}, 16), WRONG, "hole"),
    "an overlap": (lambda: tensors({"a": entry(), "b": entry(at=[4, 12])}, 12), WRONG, "overlap"),
    "the same bytes twice": (lambda: tensors({"a": entry(), "b": entry()}, 8), WRONG, "overlap"),
    "bytes at the end": (lambda: tensors({"a": entry()}, 9), WRONG, "belong to no tensor"),
    "bytes that are missing": (lambda: tensors({"a": entry()}, 7), WRONG, "truncated"),
    "claims of 2^52 bytes": (lambda: tensors({"a": entry(shape=[2**50], at=[0, 2**52])}, 8), WRONG, "truncated"),
    "more keys": (lambda: tensors({"a": entry() | {"code": "x"}}, 8), WRONG, "other keys"),
    "an entry that is a number": (lambda: tensors({"a": 3}, 8), WRONG, "other keys"),
    "a header that is a list": (lambda: tensors([1, 2]), WRONG, "no object"),
    "metadata that are numbers": (lambda: tensors({"__metadata__": {"a": 1}}), WRONG, "not words"),
    "NaN in the header": (lambda: tensors(b'{"a":NaN}'), WRONG, "not JSON"),
    "a number of 5000 digits": (lambda: tensors(b'{"a":%s}' % (b"9" * 5000)), WRONG, "integer beyond"),
    "a header 100,000 deep": (lambda: tensors(b"[" * 100_000 + b"]" * 100_000), WRONG, "nested"),
    "a header of another encoding": (lambda: tensors('{"a":1}'.encode("utf-16")), WRONG, "not JSON"),
    "a pickle": (lambda: saved({"w": Evil()}), WRONG, "a header of"),
    "what it says is 100,000 deep": (lambda: save(STATE, {HEADER: "[" * 100_000}), WRONG, "nested"),
    "what it says names code": (lambda: save(STATE, {HEADER: json.dumps({"architecture": "os.system"})}), "UnknownName", "os.system"),
    "a width of 10^9": (lambda: save(STATE, {HEADER: json.dumps({"architecture": "avnet", "arguments": {"width": 10**9}})}), "ArchitectureMismatch", "cannot be built"),
    "a width of 3000": (lambda: save(STATE, {HEADER: json.dumps({"architecture": "avnet", "arguments": {"width": 3000}})}), "ArchitectureMismatch", "does not fit"),
    "NaN weights": (lambda: save(STATE | {"classifier.bias": torch.full((8,), torch.nan)}, SAYS), "NonFiniteWeights", "classifier.bias"),
    "infinite weights": (lambda: save(STATE | {"classifier.bias": torch.full((8,), -torch.inf)}, SAYS), "NonFiniteWeights", "classifier.bias"),
}  # fmt: skip


class Scores(nn.Module):
    """A model that torch.export can export."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 2)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        return self.line(audio) + video.mean()  # type: ignore[no-any-return]


def exported(change: Callable[[str], str] = str, **more: bytes) -> bytes:
    """What torch.export.save writes, with its model.json changed and members added or replaced."""
    batch = torch.export.Dim("b")
    clips = torch.zeros(2, 4), torch.zeros(2, 3)
    program = torch.export.export(Scores().eval(), clips, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, out := io.BytesIO())
    with zipfile.ZipFile(out) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    [model] = (name for name in held if name.endswith("models/model.json"))
    text = held[model].decode()
    held[model] = change(text).encode()
    assert change is str or held[model] != text.encode()
    folder = model.removesuffix("models/model.json")
    return zipped([Member(*one) for one in (held | {folder + name: data for name, data in more.items()}).items()])


CODE = "__import__('os').system('touch canary')"


def from_file(shared: bool) -> Callable[[str], str]:
    """Read a file as a tensor, or map it to be written."""

    def change(text: str) -> str:
        content = json.loads(text)
        node = content["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.ops.aten.from_file.default"
        given = {"filename": {"as_string": "canary"}, "shared": {"as_bool": shared}, "size": {"as_int": 8}}
        node["inputs"] = [{"name": name, "arg": value, "kind": 1} for name, value in given.items()]
        return json.dumps(content)

    return change


ROUTES: dict[str, Callable[[], bytes]] = {
    "an expression that sympy evaluates": lambda: exported(lambda text: text.replace('"expr_str": "', f'"expr_str": "{CODE} + ')),
    "guards that are executed": lambda: exported(lambda text: text.replace('"guards_code": ["', f'"guards_code": ["{CODE}", "')),
    "a file that is read": lambda: exported(from_file(False)),
    "a file that is written": lambda: exported(from_file(True)),
    "a library that is opened": lambda: exported(**{"data/aotinductor/model/canary.so": b"\x7fELF" + bytes(100)}),
    "a pickle of sample inputs": lambda: exported(**{"data/sample_inputs/model.pt": saved(Evil())}),
}  # fmt: skip
PT2 = {
    f"{name}{suffix}": (make, WRONG, reason)
    for name, make in ROUTES.items()
    for suffix, reason in (
        (".pt2", "other formats"),
        (".pt", NOT_TORCH),
        (".ckpt", NOT_TORCH),
        (".safetensors", "a header of"),
    )
}


def cut(data: bytes) -> dict[str, tuple[Callable[[], bytes], str, str]]:
    """Cut a file at every kilobyte."""
    return {f" cut at {end}": (lambda end=end: data[:end], WRONG, "") for end in range(0, len(data), 1000)}  # type: ignore[misc]


def truncated() -> dict[str, tuple[Callable[[], bytes], str, str]]:
    """Honest files, cut."""
    whole = {".pt": saved(STATE), "-legacy.pt": saved(STATE, False), ".safetensors": save(STATE, SAYS)}
    return {f"whole{end}{suffix}": case for suffix, data in whole.items() for end, case in cut(data).items()}


HOSTILE = {
    "checkpoints": CHECKPOINTS,
    "safetensors": {f"{name}.safetensors": case for name, case in SAFETENSORS.items()},
    "pt2": PT2,
    "truncated": truncated(),
}


def resident(what: str) -> int:
    """Bytes of memory that this process holds (VmRSS), or held at most (VmHWM)."""
    return int(Path("/proc/self/status").read_text().partition(f"{what}:")[2].split()[0]) * 1024


def opened(path: Path) -> tuple[str, str]:
    """Name the error and its message, or say that nothing was refused."""
    try:
        read_checkpoint(path).candidate(CARD, None)
    except AvbenchError as error:
        return type(error).__name__, str(error)
    return "none", ""


def main() -> None:
    """Open every file of a kind in an empty folder, with two GiB more of addresses than now."""
    path = Path("honest.safetensors")
    path.write_bytes(save(STATE, SAYS))
    assert opened(path) == ("none", ""), "the model itself is opened"
    path.unlink()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, (make, _, _) in HOSTILE[sys.argv[1]].items():
        path = Path(f"file{Path(name).suffix}")
        path.write_bytes(make())
        print(json.dumps({"name": name, "begun": True}), flush=True)
        virtual = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (virtual + (2 << 30), resource.RLIM_INFINITY))
        Path("/proc/self/clear_refs").write_text("5")  # the most that was held counts from here
        before, started = resident("VmRSS"), time.monotonic()
        error, message = opened(path)
        seconds, grown = time.monotonic() - started, resident("VmHWM") - before
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        path.unlink()
        left = os.listdir()
        told = {"error": error, "message": message, "seconds": seconds, "bytes": grown, "left": left}
        print(json.dumps({"name": name} | told), flush=True)


if __name__ == "__main__":
    main()

"""Hostile submission.yaml files: what a stranger writes, and the reason for which it has to be refused."""

from __future__ import annotations

SHA = "a1" * 32
VALID = f"""\
title: A title
summary: One line.
architecture: avnet
arguments: {{fusion: concat, width: 8, penalty: 0.5, deep: true}}
dataset: synthav
weights:
  file: weights.safetensors
  sha256: {SHA}
  size: 10
  repo: org/model
  revision: {"a" * 40}
tracks: [standard]
defense: none
training_data: synthav train
license: MIT
authors: Someone
contact: someone at example.org
paper: https://arxiv.org/abs/2104.02000
source: https://github.com/org/model/tree/v1.0
claims:
- {{suite: standard, split: test, clean: 90.5, robust: 10}}
"""
# A line of text that says no more than text; each is tried in every field that holds a line.
SIGN, MARK, FORM, SCRIPT, EDGE = (
    "which is refused",
    "which is refused",
    "compatibility form",
    "mixes scripts",
    "begins with",
)
TEXTS = {
    "a script": ("Model <script>alert(1)</script>", SIGN),
    "a breakout from an attribute": ('Model" onmouseover="alert(1)', SIGN),
    "a breakout from a tag": ("Model><img src=x onerror=alert(1)>", SIGN),
    "a jinja expression": ("Model {{ 7*7 }}", SIGN),
    "a jinja statement": ("Model {% include 'x' %}", SIGN),
    "a workflow expression": ("Model ${{ github.token }}", SIGN),
    "a command": ("Model $(touch canary)", SIGN),
    "a command in backticks": ("Model `touch canary`", SIGN),
    "a table cell": ("Model | 99.9", SIGN),
    "an escape of a terminal": ("Model \x1b[31mred", MARK),
    "a null": ("Model \0", MARK),
    "a new line": ("Model\nadmin: true", MARK),
    "a line separator": ("Model\u2028admin", MARK),
    "text from right to left": ("Model \u202egnp.exe", MARK),
    "an isolate": ("Model \u2067x\u2069", MARK),
    "a zero-width space": ("Mo\u200bdel", MARK),
    "a zero-width joiner": ("Mo\u200ddel", MARK),
    "a byte order mark within": ("Mo\ufeffdel", MARK),
    "a soft hyphen": ("Mo\xaddel", MARK),
    "a tag character": ("Model \U000e0041", MARK),
    "a heap of combining marks": ("Mode\u0334\u0335\u0336l", MARK),
    "a combining mark alone": ("\u20dd", MARK),
    "a private character": ("Model \ue000", MARK),
    "an unassigned character": ("Model \u0378", MARK),
    "half a surrogate pair": ("Model \ud800", ""),
    "a space that is none": ("Model\u1680x", MARK),
    "a homoglyph in Cyrillic": ("M\u043edel", SCRIPT),
    "a homoglyph in Greek": ("Mod\u0395l", SCRIPT),
    "a homoglyph among digits": ("Model \u09ea", SCRIPT),
    "full-width letters": ("\uff2d\uff4fdel", FORM),
    "letters of mathematics": ("\U0001d40c\u043edel", FORM),
    "a ligature": ("\ufb01ne", FORM),
    "letters that are not composed": ("Mode\u0301l", FORM),
    "a formula with =": ("=HYPERLINK(1)", EDGE),
    "a formula with +": ("+1", EDGE),
    "a formula with -": ("-1", EDGE),
    "a formula with @": ("@SUM(1)", EDGE),
    "an option": ("-rf", EDGE),
    "a path": ("../../etc/passwd", EDGE),
    "nothing": ("", ""),
    "300 characters": ("x" * 300, "at most"),
}
URLS = {
    "javascript": "javascript:alert(1)//github.com/",
    "data": "data:text/html,x",
    "no scheme": "//github.com/x",
    "http": "http://github.com/x",
    "a file": "file:///etc/passwd",
    "a user": "https://user@github.com/x",
    "a user that looks like the host": "https://github.com@example.org/x",
    "a backslash": "https://github.com\\@example.org/x",
    "a port": "https://github.com:8443/x",
    "punycode": "https://xn--gthub-n4a.com/x",
    "a homoglyph": "https://g\u0456thub.com/x",
    "another host": "https://example.org/x",
    "a host below": "https://github.com.example.org/x",
    "a host above": "https://evil.github.com/x",
    "a host that ends alike": "https://notgithub.com/x",
    "no path": "https://github.com",
    "the way up": "https://github.com/org/../../x",
    "an escape": "https://github.com/%6a%22onload",
    "a quote": 'https://github.com/x"onload="y',
    "a fragment": "https://github.com/x#javascript:y",
    "a space": "https://github.com/x y",
    "a new line": "https://github.com/x\n",
    "an empty part": "https://github.com//x",
    "300 characters": "https://github.com/" + "x" * 300,
}
# In place of a line of VALID: (the line's beginning, what is there instead, part of the reason).
LINES = {
    "no for a number": ("  size: 10", "  size: no", "weights.size: is a number"),
    "an infinite number": ("  size: 10", "  size: .inf", "weights.size: is a number"),
    "a number of Python": ("  size: 10", "  size: 1_0", "weights.size: is a number"),
    "a number in base 16": ("  size: 10", "  size: 0x10", "weights.size: is a number"),
    "a number in base 60": ("  size: 10", "  size: 1:30", "weights.size: is a number"),
    "half a byte": ("  size: 10", "  size: 10.5", "weights.size"),
    "a file of minus one byte": ("  size: 10", "  size: -1", "weights.size"),
    "a file of 10^17 bytes": ("  size: 10", f"  size: 1{'0' * 17}", "weights.size"),
    "a number of 5000 digits": ("  size: 10", f"  size: {'9' * 5000}", "weights.size: is a number"),
    "a claim that is no number": ("- {suite", "- {suite: standard, clean: .nan}", "clean: is a number"),
    "a claim of no": ("- {suite", "- {suite: standard, clean: no}", "clean: is a number"),
    "a claim over 100": ("- {suite", "- {suite: standard, clean: 100.5}", "clean"),
    "a claim of 1e99": ("- {suite", "- {suite: standard, clean: 1e99}", "clean"),
    "a claim of a suite in markup": ("- {suite", "- {suite: '<b>', clean: 1}", "suite"),
    "a revision that is a branch": ("  revision", "  revision: main", "weights.revision"),
    "a revision of 39 digits": ("  revision", f"  revision: {'a' * 39}", "weights.revision"),
    "a revision of 41 digits": ("  revision", f"  revision: {'a' * 41}", "weights.revision"),
    "a revision in capitals": ("  revision", f"  revision: {'A' * 40}", "weights.revision"),
    "a revision with a new line": ("  revision", f'  revision: "{"a" * 40}\\n"', "weights.revision"),
    "a repository without revision": ("  revision", "", "all three"),
    "a repository that is a path": ("  repo", "  repo: ../model", "weights.repo"),
    "a repository with a host": ("  repo", "  repo: evil.org/org/model", "weights.repo"),
    "weights above the folder": ("  file", "  file: ../weights.safetensors", "weights.file"),
    "weights at the root": ("  file", "  file: /etc/passwd.safetensors", "weights.file"),
    "weights that are hidden": ("  file", "  file: .weights.safetensors", "weights.file"),
    "weights that are a pickle": ("  file", "  file: weights.pt", "weights.file"),
    "weights with a new line": ("  file", '  file: "weights.safetensors\\n"', "weights.file"),
    "a hash in capitals": ("  sha256", f"  sha256: {'A' * 64}", "weights.sha256"),
    "a short hash": ("  sha256", f"  sha256: {'0' * 63}", "weights.sha256"),
    "a hash of an algorithm": ("  sha256", f"  sha256: sha256:{SHA}", "weights.sha256"),
    "a license with a space": ("license", "license: MIT or so", "license"),
    "a license in markup": ("license", "license: <b>MIT</b>", "license"),
    "a license that is a link": ("license", "license: https://example.org", "license"),
    "a dataset above": ("dataset", "dataset: ../synthav", "dataset"),
    "a dataset that is an option": ("dataset", "dataset: -rf", "dataset"),
    "a track in markup": ("tracks", "tracks: ['<b>']", "tracks"),
    "no track": ("tracks", "tracks: []", "tracks"),
    "a track that is no list": ("tracks", "tracks: standard", "tracks"),
    "a thousand tracks": ("tracks", f"tracks: [{', '.join(['standard'] * 1000)}]", "tracks"),
    "an architecture of Python": ("architecture", "architecture: os.system", "architecture"),
    "an argument that is dunder": ("arguments", "arguments: {__class__: x}", "arguments"),
    "an argument in an argument": ("arguments", "arguments: {width: {a: b}}", "arguments"),
    "an argument in markup": ("arguments", "arguments: {fusion: '<b>'}", "arguments"),
    "a name of an argument in markup": ("arguments", "arguments: {'<script>': x}", "arguments"),
    "a second tier": ("architecture", "architecture: avnet\ncode: model.py:Net", "exactly one of"),
    "no tier": ("architecture", "", "exactly one of"),
    "code above the folder": ("architecture", "code: ../model.py:Net", "code"),
    "code that is an expression": ("architecture", "code: model.py:Net()", "code"),
    "code of another kind": ("architecture", "code: model.sh:Net", "code"),
    "a graph elsewhere": ("architecture", f"graph: {{file: ../graph.json, sha256: {SHA}}}", "graph.file"),
    "a graph of torch.export": ("architecture", f"graph: {{file: model.pt2, sha256: {SHA}}}", "graph.file"),
    "a role in markup": ("license", "license: MIT\nreference: <b>best</b>", "reference"),
    "a field that is not known": ("license", "license: MIT\nadmin: true", "'admin': there is no such field"),
    "a field in markup": ("license", "license: MIT\n'<script>': x", "'<script>': there is no such field"),
    "a field in escapes": ("license", 'license: MIT\n"\\e[31m": x', "'\\x1b[31m': there is no such field"),
    "a field that is half a surrogate pair": ("license", 'license: MIT\n"\\ud800": x', ""),
    "a merge of mappings": ("license", "license: MIT\n<<: {admin: true}", "'<<': there is no such field"),
    "a key given twice": ("title", "title: A title\ntitle: Another", "'title' is given twice"),
    "a key given twice, deeper": ("  size: 10", f"  sha256: {SHA}", "'sha256' is given twice"),
    "a key given twice, once in quotes": ("title", "title: A title\n'title': Another", "'title' is given twice"),
    "a list in place of text": ("title", "title: [a]", "title"),
    "text in place of a mapping": ("arguments", "arguments: x", "arguments"),
}
TAGS = "anchors, aliases or tags"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)
FILES: dict[str, tuple[bytes, str]] = {
    "an alias bomb": (BOMB.encode(), TAGS),
    "an anchor": (VALID.replace("title: A", "title: &a A").encode(), TAGS),
    "a mapping that holds itself": (b"&a {a: *a}", TAGS),
    "a command of Python": (b"title: !!python/object/apply:os.system [touch canary]", TAGS),
    "an object of Python": (b"!!python/object/new:os.system {args: [touch canary]}", TAGS),
    "a module of Python": (b"title: !!python/module:os", TAGS),
    "a name of Python": (b"title: !!python/name:os.system", TAGS),
    "a tag with a handle": (b"%TAG ! tag:yaml.org,2002:python/\n---\ntitle: !name:os.system", TAGS),
    "a harmless tag": (VALID.replace("title: A", "title: !!str A").encode(), TAGS),
    "a byte order mark": (b"\xef\xbb\xbf" + VALID.encode(), "byte order mark"),
    "UTF-16": (VALID.encode("utf-16"), "cannot be read"),
    "UTF-16 without a mark": (VALID.encode("utf-16-le"), "cannot be read"),
    "UTF-32": (VALID.encode("utf-32"), "cannot be read"),
    "Latin-1": (VALID.replace("A title", "M\xfcnchen").encode("latin-1"), "cannot be read"),
    "bytes that are overlong": (VALID.encode().replace(b"A title", b"\xc0\xaf"), "cannot be read"),
    "20,000 brackets": (b"[" * 20_000, "larger than"),
    "15,999 brackets": (b"[" * 15_999, "in one another"),
    "15,999 braces": (b"{" * 15_999, "in one another"),
    "5,000 pairs of brackets": (b"[" + b"[]," * 5_000 + b"]", "the file"),
    "8,000 dashes": (b"- " * 7_999, "in one another"),
    "5,000 keys": (b"? a\n" * 3_999, "given twice"),
    "1,500 keys": ("".join(f"a{i}: b\n" for i in range(1_500)).encode(), "Field required"),
    "a key of 15,000 letters": (VALID.replace("title:", "a" * 15_000 + ":").encode(), ""),
    "a character beyond Unicode": (b'title: "\\UFFFFFFFF"', "cannot be read"),
    "17 kB": (VALID.encode() + b"#" * 16_000, "larger than"),
    "two documents": (VALID.encode() + b"---\n" + VALID.encode(), "cannot be read"),
    "nothing": (b"", "the file"),
    "a list": (b"- title", "the file"),
    "a word": (b"title", "the file"),
    "a list as a key": (b"? [title]\n: x", "cannot be read"),
    "what is not YAML": (b"title: [", "cannot be read"),
    "random bytes": (bytes(range(256)), "cannot be read"),
}
IDS = [
    "..", ".", "", "-rf", "con", "con--model", "org--nul", "com1--lpt9", "x" * 300, "org--" + "x" * 61, "o" * 41 + "--x",
    "Org--Model", "org--m\u043edel", "org--mod\uff45l", "org-model", "org---model", "org--model-", "-org--model", "org--",
    "--model", "org--model/..", "org--model\n", "org--mo del", "org--$(touch canary)", "org--{{7*7}}", "org--model.git",
    "a--b--c", "org--mo\u200bdel", "org--model\0",
]  # fmt: skip
# What must not stand beside avbench--synthav-concat and its title "SynthAV concat fusion".
NEIGHBORS = [
    "avbench--synthav-concat", "AVBENCH--SynthAV-Concat", "\uff41vbench--synthav-concat", "avbench--\u017fynthav-concat",
    "SynthAV concat fusion", "synthav CONCAT fusion", "\uff33ynthAV concat fu\u017fion",
]  # fmt: skip

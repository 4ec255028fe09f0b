#!/usr/bin/env python3
"""Layout rules that the compiler does not check.

1. Dependency directions: packet <- tunnel, ctl <- switch; swctl and the CNI plugin never import switch.
2. switch/src/datapath is pure: no I/O, clock, log, lock, random number.
3. No source file is longer than 700 lines.
4. Every drop reason is explained in docs/drops.md.
"""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_LINES = 700

# What each crate may import of ours, outside tests.
ALLOWED = {
    "packet": set(),
    "tunnel": {"packet"},
    "ctl": {"packet"},
    "switch": {"packet", "tunnel", "ctl"},
    "cni": {"packet", "ctl"},
}
# These may import anything; nothing may import them.
TOOLS = {"benches", "fuzz", "netns-tests"}

IMPURE = re.compile(
    r"std::(net::(UdpSocket|TcpStream|TcpListener|ToSocketAddrs)|fs|io|os|env|process|thread|time|sync::(Mutex|RwLock|atomic))"
    r"|Instant|SystemTime|\bmio::|\btracing::|\blog::|println!|eprintln!|\brand::|\btokio::|\blibc::|\brustix::"
)


def directions():
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"]
    packages = json.loads(subprocess.check_output(command, cwd=ROOT))["packages"]
    ours = {p["name"] for p in packages}
    for p in packages:
        name = p["name"]
        if name in TOOLS:
            continue
        if name not in ALLOWED:
            yield f"crate {name} has no rule: add it to scripts/layout.py"
            continue
        imported = {d["name"] for d in p["dependencies"] if d["kind"] is None} & ours
        for other in sorted(imported - ALLOWED[name]):
            yield f"crate {name} imports {other}; it may import {sorted(ALLOWED[name]) or 'nothing of ours'}"


def purity():
    for path in sorted((ROOT / "switch/src/datapath").rglob("*.rs")):
        if "tests" in path.parts:
            continue
        text = path.read_text()
        # Tests at the end of a file may do what they like.
        text = text.split("#[cfg(test)]\nmod")[0]
        for number, line in enumerate(text.splitlines(), 1):
            code = line.split("//")[0]
            if IMPURE.search(code):
                yield f"{path.relative_to(ROOT)}:{number}: the data path is pure: {code.strip()}"


def sizes():
    files = subprocess.check_output(["git", "ls-files", "*.rs"], cwd=ROOT, text=True).split()
    for name in files:
        path = ROOT / name
        if path.exists() and (lines := path.read_text().count("\n")) > MAX_LINES:
            yield f"{name}: {lines} lines, more than {MAX_LINES}: split it by concern"


def drops():
    source = (ROOT / "switch/src/datapath/verdict.rs").read_text()
    words = re.findall(r'^    \w+ = "([a-z-]+)", "\w+", "', source, re.M)
    if not words:
        yield "no drop reasons found in verdict.rs: this check is broken"
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "docs/drops.md").read_text(), re.M))
    for word in words:
        if word not in documented:
            yield f"drop reason {word} is not in docs/drops.md"
    for word in sorted(documented - set(words)):
        yield f"docs/drops.md explains {word}, which does not exist"


def main():
    problems = [p for rule in (directions, purity, sizes, drops) for p in rule()]
    for problem in problems:
        print(problem, file=sys.stderr)
    print("layout rules: " + (f"{len(problems)} broken" if problems else "all hold"))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

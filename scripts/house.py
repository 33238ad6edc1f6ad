#!/usr/bin/python3
"""Measures the shape of the code: sizes, names, comments, and circles among the files of a room.

Prints a Markdown table with one column for each TREE: a git revision, or a folder that has src/. Revisions are read from
a temporary copy; the work tree stays as it is. Code of tests (modules under #[cfg(test)], tests.rs, tests/) counts only
towards the names of tests.
"""

import argparse
import io
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

LONG_FUNCTION = 50
# Comments, and literals of strings and characters; a lifetime is neither.
OPAQUE = re.compile(
    r"""//[^\n]*|/\*.*?\*/|\bb?r(?P<hashes>#*)".*?"(?P=hashes)|b?"(?:\\.|[^"\\])*"|b?'(?:\\[^\n]+?|[^\\'\n])'""", re.S)
TEST_MODULE = re.compile(r"#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+)\s*([;{])")
TYPE = re.compile(r"^\s*(?:pub(?:\([^)]*\))?\s+)?(?:unsafe\s+)?(?:struct|enum|union|trait)\s+(\w+)", re.M)
FUNCTION = re.compile(r"\bfn\s+(\w+)(?:[^;{}\[]|\[[^\]]*\])*\{")
TEST = re.compile(r"#\[(?:\w+::)*test\b[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:pub\s+)?(?:async\s+)?fn\s+(\w+)")
TRIALS = re.compile(r"\btrials! \{(.*?)\}", re.S)
DOC = re.compile(r"(?:^[ \t]*//[/!].*\n)+", re.M)
RIDDLE = re.compile(r"\s*//[/!] *(?:What|Whose|Whether|Who)\b")
SPAN = re.compile(r"\b(?:span|(?:error|warn|info|debug|trace)_span)!|#\[(?:tracing::)?instrument\b")
USE = re.compile(r"\buse\s+([^;]+);")
INLINE_MODULE = re.compile(r"\bmod\s+(\$?\w+)\s*\{")
PATH = re.compile(r"(?<![\w:])\w+(?:::\w+)+")


def blank(text, keep=""):
    """`text` with all but its line breaks replaced: by spaces, or by `keep` where it is not white space."""
    return re.sub(r"\S", keep, text) if keep else re.sub(r"[^\n]", " ", text)


def closing(code, start):
    """Position behind the brace that closes the one at `start`."""
    depth = 0
    for brace in re.compile(r"[{}]").finditer(code, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.end()
    return len(code)


class Source:
    """A file under src/: its module, its text, and its code without comments, literals and tests."""

    def __init__(self, root, path):
        self.path = path
        inside = path.relative_to(root / "src").with_suffix("").parts
        self.module = tuple(inside[:-1] if inside[-1] in ("mod", "lib", "main") else inside)
        self.text = path.read_text()
        self.code = OPAQUE.sub(lambda m: blank(m[0], "" if m[0].startswith("/") else '"'), self.text)
        self.test_modules = set()
        for module in reversed(list(TEST_MODULE.finditer(self.code))):
            end = module.end()
            if module[2] == ";":
                self.test_modules.add(self.module + (module[1],))
            else:
                end = closing(self.code, end - 1)
            self.code = self.code[:module.start()] + blank(self.code[module.start():end]) + self.code[end:]
            self.text = self.text[:module.start()] + blank(self.text[module.start():end]) + self.text[end:]

    def lines(self, start=0, end=None):
        return sum(1 for line in self.code[start:end].splitlines() if line.strip())

    def functions(self):
        """Lines of code of each function."""
        return [self.lines(f.start(), closing(self.code, f.end() - 1)) for f in FUNCTION.finditer(self.code)]


def read_sources(root):
    """Files of src/ that are no tests."""
    found = [Source(root, path) for path in sorted((root / "src").rglob("*.rs"))]
    tests = set().union(*(source.test_modules for source in found))
    return [s for s in found if not any(s.module[:n] in tests for n in range(len(s.module) + 1)) and "tests" not in s.module]


def test_names(root):
    """Name of each test: functions with #[test], and those that the network-namespace tests list."""
    names = []
    for folder in ("src", "tests", "netns-tests", "benches"):
        for path in (root / folder).rglob("*.rs"):
            text = path.read_text()
            names += TEST.findall(text)
            for block in TRIALS.findall(text):
                names += re.findall(r"(\w+)\s*[,;]", block)
    return names


def imports(tree):
    """(path, name) of each name that a `use` imports."""
    while inner := re.search(r"([\w:\s]*)\{([^{}]*)\}", tree):
        items = [inner[1].strip() + item.strip() for item in inner[2].split(",") if item.strip()]
        tree = tree[:inner.start()] + ", ".join(items) + tree[inner.end():]
    for item in tree.split(","):
        path, _, alias = item.partition(" as ")
        parts = tuple(part.strip() for part in path.split("::") if part.strip())
        parts = parts[:-1] if parts[-1] == "self" else parts
        yield parts, alias.strip() or parts[-1]


class Paths:
    """The paths by which the files of a tree name each other."""

    def __init__(self, sources):
        self.modules = {s.module for s in sources}
        self.imports = {s.module: {} for s in sources}
        self.references = []  # (file's module, module that the path is relative to, path)
        for source in sources:
            self._read(source)

    def _read(self, source):
        inline = [(m[1], m.start(), closing(source.code, m.end() - 1)) for m in INLINE_MODULE.finditer(source.code)]
        within = lambda at: source.module + tuple(name for name, start, end in inline if start < at < end)
        body = re.sub(r"\(in [\w:]+\)", lambda m: blank(m[0]), USE.sub(lambda m: blank(m[0]), source.code))
        for use in USE.finditer(source.code):
            at = within(use.start())
            for path, name in imports(use[1]):
                if at == source.module:
                    self.imports[at].setdefault(name, path)
                # A name that the file only passes on is no use of it.
                is_used = re.search(rf"(?<!\.)(?<!fn )(?<!mod )\b{re.escape(name)}\b", body)
                if is_used or not self._starts_below(source.module, path):
                    self.references.append((source.module, at, path))
        for path in PATH.finditer(body):
            parts = tuple(path[0].split("::"))
            if parts[0] in ("crate", "super", "self") or self._starts_below(source.module, parts):
                self.references.append((source.module, within(path.start()), parts))

    def _starts_below(self, module, path):
        return module + path[path[0] == "self":][:1] in self.modules

    def target(self, module, path, depth=0):
        """Module of the file that defines what `path` names; None outside of the tree."""
        at = module
        if path[0] == "crate":
            at, path = (), path[1:]
        elif path[0] not in ("self", "super") and at + path[:1] not in self.modules:
            first = self.imports.get(at, {}).get(path[0])
            return self.target(at, first, depth + 1) if first and first[0] != path[0] and depth < 9 else None
        while path and (path[0] in ("self", "super") or at + path[:1] in self.modules):
            at = {"self": at, "super": at[:-1]}.get(path[0], at + path[:1])
            path = path[1:]
        passed_on = self.imports.get(at, {}).get(path[0]) if path else None
        if passed_on and depth < 9:
            return self.target(at, passed_on, depth + 1)
        while at not in self.modules:  # a module inside a file
            at = at[:-1]
        return at

    def circles(self):
        """(folder, files, [(from, to, path)]) of each circle among siblings; a folder and its file are one, `mod` the parent."""
        edges = {}
        for module, at, path in self.references:
            there = self.target(at, path)
            if there is None or there == module:
                continue
            shared = 0
            while shared < min(len(module), len(there)) and module[shared] == there[shared]:
                shared += 1
            if shared:
                here, to = (m[shared] if len(m) > shared else "mod" for m in (module, there))
                edges.setdefault(module[:shared], {}).setdefault(here, {}).setdefault(to, set()).add("::".join(path))
        for folder, graph in sorted(edges.items()):
            reach = {node: reachable(graph, node) for node in graph}
            seen = set()
            for node in sorted(graph):
                circle = sorted(n for n in reach[node] if node in reach.get(n, ()))
                if node in seen or not circle:
                    continue
                seen.update(circle)
                named = [(a, b, p) for a in circle for b in circle for p in sorted(graph[a].get(b, ()))]
                yield "/".join(folder), circle, named


def reachable(graph, start):
    found, todo = set(), [start]
    while todo:
        new = set(graph.get(todo.pop(), ())) - found
        found |= new
        todo += new
    return found


def share(part, whole):
    return f"{100 * part / max(whole, 1):.1f} %"


def measure(root):
    """(label, value) of each row."""
    sources = read_sources(root)
    sizes = [source.lines() for source in sources]
    functions = [lines for source in sources for lines in source.functions()]
    headers = sum(source.text.startswith("//!") for source in sources)
    docs = [block for source in sources for block in DOC.findall(source.text)]
    riddles = sum(bool(RIDDLE.match(block)) for block in docs)
    types = [(name, source.path) for source in sources for name in TYPE.findall(source.code)]
    files = {name: {path for other, path in types if other == name} for name, _ in types}
    one_word = sum(len(re.findall(r"[A-Z]+[a-z0-9]*", name)) == 1 for name, _ in types)
    twice = sum(len(files[name]) > 1 for name, _ in types)
    words = [len(name.strip("_").split("_")) for name in test_names(root)]
    calls = sum(len(re.findall(r"\b(?:debug|trace)!", source.code)) for source in sources)
    spans = sum(len(SPAN.findall(source.code)) for source in sources)
    manifest = (root / "Cargo.toml").read_text()
    found = [] if "autotests = false" in manifest else list((root / "tests").glob("*.rs"))
    binaries = max(manifest.count("[[test]]"), len(found))
    return [
        ("code lines (no inline tests)", f"{sum(sizes):,}"),
        ("files", len(sizes)),
        ("files: median / max code lines", f"{statistics.median(sizes):g} / {max(sizes)}"),
        ("functions", f"{len(functions):,}"),
        (f"functions > {LONG_FUNCTION} lines", share(sum(f > LONG_FUNCTION for f in functions), len(functions))),
        ("files with a `//!` header", share(headers, len(sizes))),
        ("docs that open with What / Whose / Whether / Who", share(riddles, len(docs))),
        ("one-word type names", share(one_word, len(types))),
        ("type names defined in more than one file", share(twice, len(types))),
        ("tests", f"{len(words):,}"),
        ("words per test name: mean / max", f"{statistics.mean(words or [0]):.1f} / {max(words, default=0)}"),
        ("`debug!` + `trace!` calls / spans", f"{calls} / {spans}"),
        ("circles of sibling files", len(list(Paths(sources).circles()))),
        ("test binaries", binaries),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", nargs="*", metavar="TREE", help="git revision, or folder (default: this work tree)")
    parser.add_argument("--circles", action="store_true", help="list the circles and the paths that close them, not the table")
    options = parser.parse_args()
    here = Path(__file__).resolve().parent.parent
    columns = []
    for tree in options.tree or [here]:
        with tempfile.TemporaryDirectory() as copy:
            root = Path(tree)
            if not (root / "src").is_dir():
                git = subprocess.run(["git", "-C", here, "archive", tree], stdout=subprocess.PIPE)
                if git.returncode:
                    sys.exit(f"house.py: no such revision or folder: {tree}")
                tarfile.open(fileobj=io.BytesIO(git.stdout)).extractall(copy)
                root = Path(copy)
            if options.circles:
                for folder, circle, named in Paths(read_sources(root)).circles():
                    print(f"{folder}: {' '.join(circle)}")
                    for a, b, path in named:
                        print(f"    {a} -> {b}  ({path})")
            else:
                columns.append(measure(root))
    if columns:
        names = [str(tree) for tree in options.tree] or ["now"]
        print("| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
        for rows in zip(*columns):
            print(f"| {rows[0][0]} | " + " | ".join(str(value) for _, value in rows) + " |")


if __name__ == "__main__":
    main()

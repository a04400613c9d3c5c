#!/usr/bin/env python3
"""Holds the arrows between the rooms of src/ one way.

    tools/check_layers.py                       checks this clone
    tools/check_layers.py --root FOLDER         checks another
    tools/check_layers.py --skip-architecture   does not ask ARCHITECTURE.md
    tools/check_layers.py --self-test           checks the check: every planted violation is found

A room is a module that src/lib.rs declares with `pub mod`. A room may import only rooms declared
above it; the order is read from lib.rs, nothing is repeated here. Test modules are free. Some crates are
confined to some rooms, no file is longer than 500 lines, ARCHITECTURE.md has a heading for every room and names what it imports, and
SAFETY.md has a word on every file with `unsafe`. What is wrong is printed as `file:line: import: rule`; the exit code is 0 for nothing, 1 for something,
2 when the check itself cannot run.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

MAX_LINES = 500

# Crates that only some rooms may see. A place is a module path and covers all below it.
CONFINED = {
    "tch": ["libtorch", "select/on_device", "tail_model/on_device", "teacher/torchscript", "loss", "student", "optim", "metrics", "checkpoint", "train"],
    "cudarc": ["libtorch"],
    "ort": ["teacher/onnx"],
    "ureq": ["tracking/mlflow"],
    "clap": ["bin"],
    "anyhow": ["bin"],
    "indicatif": ["bin"],
    "ctrlc": ["bin"],
    "signal_hook": ["bin"],
}

# Arrows that the order would allow: (from, to, why not).
FORBIDDEN = [("loss", "cache", "a loss sees a batch, never the cache it came from")]

# A thing with no room means that a room is missing. (src/bin/shared is what both programs share.)
NAMELESS = {"utils", "util", "common", "helpers", "helper", "misc"}


def blank(text):
    """`text` with comments and literals turned to spaces; lines and columns stay."""
    out = list(text)

    def wipe(start, end):
        for i in range(start, end):
            if out[i] != "\n":
                out[i] = " "

    token = re.compile(
        r"""//[^\n]*
          | /\*
          | b?"(?:\\.|[^"\\])*"
          | b?r(\#*)"(?:.|\n)*?"\1
          | b?'(?:\\(?:x..|u\{[^}]*\}|.)|[^\\'\n])'""",
        re.VERBOSE | re.DOTALL,
    )
    at = 0
    while match := token.search(text, at):
        start, end = match.span()
        # `r"` and `b'` may be the end of a longer word, where they begin no literal.
        if start and text[start] in "rb" and (text[start - 1].isalnum() or text[start - 1] == "_"):
            at = start + 1
            continue
        if match.group() == "/*":
            depth, end = 1, start + 2
            while depth and end < len(text):
                if text.startswith("/*", end):
                    depth, end = depth + 1, end + 2
                elif text.startswith("*/", end):
                    depth, end = depth - 1, end + 2
                else:
                    end += 1
        wipe(start, end)
        at = end
    return "".join(out)


def end_of_block(text, opening):
    """The position after the brace that closes the one at `opening`."""
    depth = 0
    for at in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return at + 1
    return len(text)


def without_tests(text):
    """Blanked `text` without the items under #[cfg(test)]."""
    while match := re.search(r"#\s*\[\s*cfg\s*\(\s*(?:test|all\s*\(\s*test\b[^]]*)\s*\)\s*\]", text):
        ends = [at for at in (text.find(";", match.end()), text.find("{", match.end())) if at >= 0]
        end = min(ends, default=len(text) - 1)
        end = end_of_block(text, end) if text[end] == "{" else end + 1
        text = text[: match.start()] + re.sub(r"[^\n]", " ", text[match.start() : end]) + text[end:]
    return text


def test_files(text):
    """Names of the modules in files that are declared under #[cfg(test)]."""
    return re.findall(r"#\s*\[\s*cfg\s*\(\s*test\s*\)\s*\]\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+)\s*;", text)


def split_top(tree):
    """The parts of a use tree between the commas of its outermost level."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(tree):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append(tree[start:at])
            start = at + 1
    return parts + [tree[start:]]


def flatten(tree, prefix=()):
    """Every path of a use tree, as tuples of segments."""
    tree = tree.strip()
    opening = tree.find("{")
    if opening < 0:
        path = re.split(r"\s+as\s+", tree)[0]
        segments = tuple(part.strip() for part in path.split("::"))
        return [prefix + tuple(part for part in segments if part)] if tree else []
    head = tuple(part.strip() for part in tree[:opening].split("::") if part.strip())
    inside = tree[opening + 1 : tree.rfind("}")]
    return [path for part in split_top(inside) for path in flatten(part, prefix + head)]


def imports(text):
    """(position, path) of everything that a blanked file names from outside its module."""
    found = []
    for match in re.finditer(r"\buse\s+([^;]+);", text):
        found += [(match.start(), path) for path in flatten(match.group(1))]
    rest = re.sub(r"\buse\s+[^;]+;", lambda m: re.sub(r"[^\n]", " ", m.group()), text)
    words = "|".join(["crate", "super", *CONFINED])
    path = rf"(?<![\w:])(?:::\s*)?\b((?:{words})(?:\s*::\s*\w+)+)"
    for match in re.finditer(path, rest):
        found.append((match.start(1), tuple(part.strip() for part in match.group(1).split("::"))))
    for match in re.finditer(r"\bextern\s+crate\s+(\w+)", rest):
        found.append((match.start(), (match.group(1),)))
    return sorted(found)


def module_path(relative):
    """The module that a file of src/ is."""
    parts = list(relative.with_suffix("").parts)
    return parts[:-1] if parts[-1] == "mod" else parts


def inline_modules(text):
    """(start, end, name) of the modules with a body in this file."""
    return [
        (match.start(), end_of_block(text, match.end() - 1), match.group(1))
        for match in re.finditer(r"\bmod\s+(\w+)\s*\{", text)
    ]


class Check:
    def __init__(self, root, architecture=True):
        self.root, self.architecture, self.errors = root, architecture, []
        # What each room imports of the others.
        self.imported = {}
        lib = root / "src/lib.rs"
        self.lib = without_tests(blank(lib.read_text(encoding="utf-8")))
        self.rooms = re.findall(r"\bpub\s+mod\s+(\w+)\s*;", self.lib)

    def error(self, file, text, position, what, rule):
        line = text.count("\n", 0, position) + 1
        self.errors.append(f"{file.relative_to(self.root)}:{line}: {what}: {rule}")

    def run(self):
        if not self.rooms:
            raise ValueError("src/lib.rs declares no `pub mod`")
        src = self.root / "src"
        texts = {file: file.read_text(encoding="utf-8") for file in sorted(src.rglob("*.rs"))}
        for_tests = set()
        for file, text in texts.items():
            folder = file.parent if file.stem in ("mod", "lib", "main") else file.with_suffix("")
            for name in test_files(blank(text)):
                for_tests |= {folder / f"{name}.rs", folder / name / "mod.rs"}
        for file, text in texts.items():
            self.names(file, file.relative_to(src), text)
            lines = text.count("\n")
            if lines > MAX_LINES:
                self.error(file, text, len(text) - 1, f"{lines} lines", f"a file has at most {MAX_LINES}; split it")
            if file not in for_tests:
                self.file(file, module_path(file.relative_to(src)), without_tests(blank(text)))
        for position in re.finditer(r"(?<!pub )\bmod\s+(\w+)\s*;", self.lib):
            rule = "a room is declared with `pub mod`, so that its place in the order is seen"
            self.error(src / "lib.rs", self.lib, position.start(), f"mod {position.group(1)}", rule)
        self.unsafe(texts)
        if self.architecture:
            self.headings()
        return self.errors

    def names(self, file, relative, text):
        shown = [part for part in module_path(relative) if part in NAMELESS]
        shown += [name for _, _, name in inline_modules(blank(text)) if name in NAMELESS]
        for name in shown:
            self.error(file, text, 0, f"module {name}", "this name says nothing: find the room it belongs to")

    def file(self, file, module, text):
        in_lib = module[0] not in ("bin", "lib")
        inline = inline_modules(text)
        for position, path in imports(text):
            what = "::".join(path)
            crate = path[0]
            if crate in CONFINED and not self.may_see(crate, module):
                rule = f"{crate} is confined to {', '.join('src/' + place for place in CONFINED[crate])}"
                self.error(file, text, position, what, rule)
            if not in_lib or crate not in ("crate", "super"):
                continue
            here = module + [name for start, end, name in inline if start < position < end]
            target = self.resolve(here, path)
            if target is not None:
                self.arrow(file, text, position, what, module[0], target)

    @staticmethod
    def may_see(crate, module):
        return any(module[: len(place)] == place for place in (p.split("/") for p in CONFINED[crate]))

    @staticmethod
    def resolve(here, path):
        """The name that `path` takes from the crate's root, or None when it stays below it."""
        if path[0] == "crate":
            return path[1] if len(path) > 1 else "*"
        ups = next((i for i, part in enumerate(path) if part != "super"), len(path))
        if ups < len(here):
            return None
        return path[ups] if ups < len(path) else "*"

    def arrow(self, file, text, position, what, room, target):
        if target in ("*", "self"):
            return self.error(file, text, position, what, "name the room that is imported")
        if target not in self.rooms:
            return self.error(file, text, position, what, f"src/lib.rs declares no room `{target}`")
        if room not in self.rooms:
            return self.error(file, text, position, what, f"src/lib.rs declares no room `{room}`, where this file lies")
        for source, forbidden, why in FORBIDDEN:
            if (room, target) == (source, forbidden):
                return self.error(file, text, position, what, why)
        if self.rooms.index(target) > self.rooms.index(room):
            rule = f"`{room}` may import only rooms above it in src/lib.rs, and `{target}` stands below"
            return self.error(file, text, position, what, rule)
        if target != room:
            self.imported.setdefault(room, set()).add(target)

    def unsafe(self, texts):
        path = self.root / "SAFETY.md"
        told = path.read_text(encoding="utf-8") if path.exists() else ""
        for file, text in texts.items():
            used = re.search(r"\bunsafe\b", blank(text))
            if used and f"`{file.relative_to(self.root)}`" not in told:
                self.error(file, text, used.start(), "unsafe", "SAFETY.md says of every file with it what it relies on")

    def headings(self):
        path = self.root / "ARCHITECTURE.md"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        sections = [(match.group(1), match.start()) for match in re.finditer(r"^#+ ([^\n]*)$", text, re.MULTILINE)]
        ends = [start for _, start in sections[1:]] + [len(text)]
        for room in self.rooms:
            section = next(((start, end) for (heading, start), end in zip(sections, ends) if f"`{room}`" in heading), None)
            if section is None:
                self.errors.append(f"ARCHITECTURE.md:1: `{room}`: every `pub mod` of src/lib.rs has a heading that names it")
                continue
            # "Imports nothing.", or the rooms; "every room above" needs no list.
            told = re.search(r"\bImports\b([^.]*)\.", text[slice(*section)])
            if told and "every room above" in told.group(1):
                continue
            names = set(re.findall(r"`(\w+)`", told.group(1))) & set(self.rooms) if told else set()
            found = self.imported.get(room, set())
            if not told or names != found:
                what = ", ".join(f"`{name}`" for name in self.rooms if name in found) or "nothing"
                self.error(path, text, section[0], f"`{room}`", f"its section says what it imports: {what}")


# ---- the check's own check ------------------------------------------------------------------------

SOUND = {
    "src/lib.rs": "//! A tour.\npub mod ids;\n#[cfg(feature = \"torch\")]\npub mod libtorch;\npub mod teacher;\npub mod cache;\n/* pub mod ghost; */\npub mod loss;\n",
    "src/ids.rs": "//! See [`crate::cache::X`].\n// use crate::cache;\npub const S: &str = \"use crate::cache::X;\";\npub const R: &str = r#\"crate::loss::\"#;\npub const C: char = '\"';\n#[cfg(test)]\nmod tests {\n    use crate::cache::X;\n    use tch::Tensor;\n}\n",
    "src/libtorch.rs": "use tch::Device;\nuse crate::ids;\nfn f() { unsafe { g() } } // unsafe\n",
    "SAFETY.md": "# Safety\n### `src/libtorch.rs`\n",
    "src/teacher/mod.rs": "mod onnx;\n#[cfg(test)]\nmod tests;\nuse crate::{libtorch::D, ids::{self, A}};\n",
    "src/teacher/onnx.rs": "use ort::session::Session;\nuse super::Teacher;\nuse super::super::ids::A;\nmod inner {\n    use super::super::Teacher;\n}\n",
    "src/teacher/tests.rs": "use crate::loss::L;\n",
    "src/cache/mod.rs": "mod reader;\npub fn f() -> crate::teacher::T { super::ids::f() }\n",
    "src/cache/reader.rs": "use crate::cache::f;\n",
    "src/loss/mod.rs": "use tch::Tensor;\n",
    "src/bin/a/main.rs": "use clap::Parser;\nuse anyhow::Result;\nuse kd_cache::loss;\n",
    "src/bin/shared/mod.rs": "use indicatif::ProgressBar;\n",
    "ARCHITECTURE.md": "# Rooms\n## `ids`\nImports nothing.\n## `libtorch`\nImports `ids`.\n## `teacher`\nImports\n`ids`, `libtorch` (devices).\n## `cache`\nImports every room above.\n## `loss`\nImports nothing of ours.\n",
}

# (file, what is added to it, the line on which it must be found, words of the rule)
PLANTED = [
    ("src/ids.rs", "use crate::cache::X;\n", 11, "may import only rooms above"),
    ("src/ids.rs", "use crate::{\n    ids::A, loss::{L}};\n", 11, "`loss` stands below"),
    ("src/ids.rs", "pub fn f() { crate::libtorch::g() }\n", 11, "`libtorch` stands below"),
    ("src/ids.rs", "use super::teacher::T;\n", 11, "`teacher` stands below"),
    ("src/ids.rs", "use crate::*;\n", 11, "name the room"),
    ("src/ids.rs", "use crate::ghost::G;\n", 11, "declares no room `ghost`"),
    ("src/teacher/onnx.rs", "use super::super::cache::X;\n", 7, "`cache` stands below"),
    ("src/teacher/onnx.rs", "mod more {\n    use super::super::super::loss::L;\n}\n", 8, "`loss` stands below"),
    ("src/teacher/onnx.rs", "use tch::Tensor;\n", 7, "tch is confined"),
    ("src/cache/reader.rs", "use tch::Tensor;\n", 2, "tch is confined"),
    ("src/cache/reader.rs", "pub fn f(x: &::ort::session::Session) {}\n", 2, "ort is confined"),
    ("src/cache/reader.rs", "use {anyhow::Result};\n", 2, "anyhow is confined"),
    ("src/cache/mod.rs", "#[derive(clap::Parser)]\nstruct A;\n", 3, "clap is confined"),
    ("src/cache/mod.rs", "use indicatif as bar;\n", 3, "indicatif is confined"),
    ("src/loss/mod.rs", "use ctrlc;\n", 2, "ctrlc is confined"),
    ("src/loss/mod.rs", "use crate::cache::X;\n", 2, "never the cache"),
    ("src/loss/mod.rs", "// unsafe\nfn f() { unsafe { g() } }\n", 3, "SAFETY.md"),
    ("src/loss/utils.rs", "\n", 1, "says nothing"),
    ("src/bin/a/helpers.rs", "\n", 1, "says nothing"),
    ("src/bin/a/main.rs", "use ort::session::Session;\n", 4, "ort is confined"),
    ("src/cache/long.rs", "\n" * 501, 501, "at most 500"),
    ("src/lib.rs", "mod hidden;\n", 9, "declared with `pub mod`"),
    ("src/lib.rs", "pub mod bare;\n", 1, "has a heading"),
    ("src/loss/mod.rs", "use crate::ids::A;\n", 11, "its section says what it imports: `ids`"),
]


def self_test():
    failures = []

    def errors(extra=None):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for name, text in SOUND.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            if extra:
                path = root / extra[0]
                path.write_text((path.read_text(encoding="utf-8") if path.exists() else "") + extra[1], encoding="utf-8")
            return Check(root).run()

    if found := errors():
        failures.append(f"a sound tree is refused: {found}")
    for name, added, line, rule in PLANTED:
        found = errors((name, added))
        place = "ARCHITECTURE.md:1: " if "heading" in rule else f"{'ARCHITECTURE.md' if 'section' in rule else name}:{line}: "
        if len(found) != 1 or not found[0].startswith(place) or rule not in found[0]:
            failures.append(f"planted in {name}: {added.strip()[:60]!r}: expected {place}… {rule}, found {found}")
    for failure in failures:
        print(f"check_layers: self-test: {failure}", file=sys.stderr)
    if not failures:
        print(f"check_layers: self-test: {len(PLANTED)} planted violations, all found")
    return 1 if failures else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--skip-architecture", action="store_true")
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        return self_test()
    try:
        check = Check(options.root, not options.skip_architecture)
        errors = check.run()
    except (OSError, ValueError) as error:
        print(f"check_layers: error: {error}", file=sys.stderr)
        return 2
    for error in errors:
        print(error)
    if not errors:
        print(f"check_layers: {len(check.rooms)} rooms, every arrow goes one way")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())

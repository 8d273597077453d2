"""The names that TensorRT 11 offers to Python, read from its bindings' wheel without its library.

python tests/tensorrt_names.py            # fetches the wheel into .tensorrt/; says why where it cannot, no failure
python tests/tensorrt_names.py --write    # writes tests/data/tensorrt_names.json anew

The bindings do not import without libnvinfer, gigabytes to download. But pybind11 is given every name as a string, and
the module still has its symbols: in its disassembly a call of `class_<ICudaEngine>::def_property_readonly` has the
property's name in rsi or, where the compiler made a copy of the callee for one name, in that copy. Where it inlined
the call the class cannot be told; the string is there all the same. So there are two lists: names by class, and others.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

PACKAGE = "tensorrt-cu13-bindings==11.4.0.106"
FOLDER = Path(__file__).parents[1] / ".tensorrt"
NAMES = Path(__file__).with_name("data") / "tensorrt_names.json"
_WHEEL = ("--only-binary=:all:", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.11")  # the list's own

_NAME = re.compile(rb"(?<![^\0])[A-Za-z_][A-Za-z0-9_]{1,60}(?=\0)")
_TYPE = re.compile(r"^St|\d(nvinfer|nvonnxparser|tensorrt|pybind|__gnu)|^[A-Z]\d")  # C++'s own names of types
_LOADED = re.compile(r"lea\s+\S+\(%rip\),(%\w+)\s+# ([0-9a-f]+)")
_MOVED = re.compile(r"mov\s+(\S+),(\S+)$")
_CALLED = re.compile(r"call\s+([0-9a-f]+) <(.*)>$")
_WRITTEN = re.compile(r",(%\w+)$")
_BINDING = re.compile(r"(?:.*?& )?pybind11::(?:class_|enum_)<([\w:]+).*?>::(def\w*|value)[<(]")
_LOST_IN_CALLS = tuple(f"%{name}" for name in ("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"))


def fetch() -> str:
    """Downloads the wheel, unless it is there; gives why that cannot be, or ""."""
    if wheel() is not None:
        return ""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*command, *_WHEEL, "-d", folder, PACKAGE], check=False, capture_output=True, text=True)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        FOLDER.mkdir(exist_ok=True)
        for path in Path(folder).iterdir():
            shutil.move(path, FOLDER / path.name)
    return ""


def wheel() -> Path | None:
    """The wheel that `fetch` brought."""
    version = PACKAGE.partition("==")[2]
    return next(iter(sorted(FOLDER.glob(f"*-{version}-*.whl"))), None)


def why_not() -> str:
    """Why the wheel cannot be read here, or ""."""
    if wheel() is None:
        return f"{PACKAGE} is not here: make tensorrt-names"
    return "" if shutil.which("objdump") else "there is no objdump (binutils) to read it with"


def read_wheel(path: Path) -> dict[str, Any]:
    """What tests/data/tensorrt_names.json holds."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        module = next(name for name in archive.namelist() if name.endswith("/tensorrt.so"))
        python = archive.read("tensorrt_bindings/__init__.py").decode()
        members, strings = read_module(Path(archive.extract(module, folder)))
    strings = {name for name in strings if not _TYPE.search(name)} | _defined(ast.parse(python))
    placed = {name for names in members.values() for name in names}
    return {
        "package": PACKAGE,
        "members": {cls: sorted(names) for cls, names in sorted(members.items())},
        "others": sorted(strings - placed),
    }


def read_module(path: Path) -> tuple[dict[str, set[str]], set[str]]:
    """A compiled pybind11 module's names by C++ class, without namespaces; and all strings that may be a name."""
    module = _Module(path)
    members: dict[str, set[str]] = defaultdict(set)
    copies = module.strings_of_functions()
    held: dict[str, int] = {}  # registers and places on the stack: the address in them
    for line in module.lines:
        if line is None:
            held = {}
        elif found := _LOADED.match(line):
            held[found[1]] = int(found[2], 16)
        elif found := _MOVED.match(line):
            source, target = found.groups()
            held.pop(target, None)
            if source in held:
                held[target] = held[source]
        elif found := _CALLED.match(line):
            if binding := _BINDING.match(found[2]):
                name = module.name_at(held.get("%rsi", 0))
                copied = "[clone" in found[2]
                names = [name] if name else copies[found[1]] if copied else []
                members[binding[1].rpartition("::")[2]].update(names)
            for register in _LOST_IN_CALLS:
                held.pop(register, None)
        elif found := _WRITTEN.search(line):
            held.pop(found[1], None)
    return {cls: names for cls, names in members.items() if names}, module.strings()


class _Module:
    """Disassembly and read-only strings. lines: instructions, None where a function begins."""

    def __init__(self, path: Path) -> None:
        text = _run("objdump", "-d", "-C", "--no-show-raw-insn", str(path))
        size, self._address, offset = (int(word, 16) for word in _rodata(_run("objdump", "-h", str(path))))
        self._data = path.read_bytes()[offset : offset + size]
        self._text = [line for line in text.splitlines() if line]
        self.lines = [line.split("\t", 1)[1].strip() if "\t" in line else None for line in self._text]

    def name_at(self, address: int) -> str | None:
        start = address - self._address
        if not 0 <= start < len(self._data):
            return None
        word = self._data[start : self._data.index(b"\0", start)]
        return word.decode() if re.fullmatch(rb"[A-Za-z_]\w*", word) else None

    def strings(self) -> set[str]:
        """Also those that the linker laid into the end of a longer one, where code points to them."""
        pointed = (self.name_at(int(found[2], 16)) for line in self.lines if line and (found := _LOADED.match(line)))
        return {word.decode() for word in _NAME.findall(self._data)} | set(filter(None, pointed))

    def strings_of_functions(self) -> dict[str, list[str]]:
        """The names that each function loads, by its address as objdump writes it in calls."""
        found: dict[str, list[str]] = defaultdict(list)
        function = ""
        for line, instruction in zip(self._text, self.lines, strict=True):
            if instruction is None:
                function = line.split(" ")[0].lstrip("0")
            elif (loaded := _LOADED.match(instruction)) and (name := self.name_at(int(loaded[2], 16))):
                found[function].append(name)
        return found


def _rodata(headers: str) -> tuple[str, ...]:
    found = re.search(r"\.rodata\s+([0-9a-f]+)\s+([0-9a-f]+)\s+[0-9a-f]+\s+([0-9a-f]+)", headers)
    assert found is not None
    return found.groups()


def _defined(module: ast.Module) -> set[str]:
    """A Python file's own functions and values."""
    functions = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
    targets = [target for node in module.body if isinstance(node, ast.Assign) for target in node.targets]
    return functions | {target.id for target in targets if isinstance(target, ast.Name)}


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    reason = fetch()
    print(f"{PACKAGE} in {FOLDER}" if not reason else f"TensorRT's names are not read anew here: {reason}")
    fetched = wheel()
    if "--write" in sys.argv and fetched is not None:
        NAMES.write_text(json.dumps(read_wheel(fetched), indent=0) + "\n")

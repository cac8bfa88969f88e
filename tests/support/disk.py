"""Computes what a disk may contain after a power cut, from a trace of the calls of a process.

The rules are the minimum that POSIX promises: a file's bytes are there after its sync, and a name
is there after the sync of its folder. Any part of the rest may be there: some of the unsynced
bytes, in 512-byte sectors, zeros instead of them, a rename or not.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
CALLS = (
    "openat,mkdir,mkdirat,write,pwrite64,fsync,fdatasync,rename,renameat,unlink,unlinkat,"
    "ftruncate,fallocate,lseek,close,sendto,sendmsg,writev,pwritev"
)
STRACE = ("strace", "-f", "-qq", "-xx", "-s", "1000000", "-e", f"trace={CALLS}")

_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
_BEGUN = re.compile(r"(\d+) +(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True)
class Call:
    """One finished system call: its text arguments as bytes, the others as strace printed them."""

    name: str
    texts: list[bytes]
    words: list[str]
    result: int


def read_trace(path: Path) -> Iterator[Call]:
    """Yields the calls that succeeded, in the order in which they returned."""
    begun: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if unfinished := _BEGUN.match(line):
            begun[unfinished[1]] = unfinished[2]
            continue
        if resumed := _RESUMED.match(line):
            line = f"{resumed[1]} {begun.pop(resumed[1])}{resumed[2]}"
        found = _LINE.match(line)
        if found and int(found[4]) >= 0:
            texts = [bytes.fromhex(t.replace("\\x", "")) for t in _TEXT.findall(found[3])]
            words = [w.strip() for w in _TEXT.sub("", found[3]).split(",")]
            yield Call(found[2], texts, words, int(found[4]))


@dataclass
class Node:
    """A file with its durable and current bytes, or a folder with its durable and current names."""

    folder: bool = False
    synced: bytes = b""
    now: bytearray = field(default_factory=bytearray)
    names: dict[str, Node] = field(default_factory=dict)
    synced_names: dict[str, Node] = field(default_factory=dict)

    def sync(self) -> None:
        self.synced = bytes(self.now)
        self.synced_names = dict(self.names)

    def write(self, at: int, data: bytes) -> None:
        self.now.extend(b"\0" * (at - len(self.now)))
        self.now[at : at + len(data)] = data


class Disk:
    """Follows the calls of one process below `root`, whose content before that is durable."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.top = Node(folder=True)
        self._files: dict[int, Node] = {}
        self._places: dict[int, int] = {}

    def follow(self, call: Call) -> bool:
        """Applies one call, and returns whether it changed or synced this disk."""
        if call.name in ("openat", "mkdir", "mkdirat", "rename", "renameat", "unlink", "unlinkat"):
            return self._named(call)
        return self._opened(call)

    def _named(self, call: Call) -> bool:
        path = call.texts[0].decode()
        if path == str(self.root) and call.name == "openat":
            self._files[call.result] = self.top
            return False
        if not path.startswith(f"{self.root}/"):
            if call.name == "openat":
                self._files.pop(call.result, None)
            return False
        parent, name = self._parent(path)
        if call.name == "openat":
            self._open(parent, name, call)
        elif call.name.startswith("mkdir"):
            parent.names[name] = Node(folder=True)
        elif call.name.startswith("rename"):
            there, new_name = self._parent(call.texts[1].decode())
            there.names[new_name] = parent.names.pop(name)
        else:
            parent.names.pop(name, None)
        return call.name != "openat"

    def _open(self, parent: Node, name: str, call: Call) -> None:
        flags = next(word for word in call.words if "O_" in word)
        if name not in parent.names and "O_CREAT" not in flags:
            self._files.pop(call.result, None)
            return  # it existed before the trace began, and the process only reads it
        node = parent.names.setdefault(name, Node())
        if "O_TRUNC" in flags:
            node.now.clear()
        self._files[call.result] = node
        self._places[call.result] = len(node.now) if "O_APPEND" in flags else 0

    def _opened(self, call: Call) -> bool:
        if not call.words[0].isdigit():
            return False
        number = int(call.words[0])
        node = self._files.get(number)
        if node is None:
            return False
        if call.name == "close":
            del self._files[number]
        elif call.name == "lseek":
            self._places[number] = call.result
        elif call.name in ("fsync", "fdatasync"):
            node.sync()
            return True
        elif call.name == "fallocate":
            node.write(sum(map(int, call.words[-2:])), b"")
        elif call.name == "ftruncate":
            del node.now[int(call.words[1]) :]
            node.write(int(call.words[1]), b"")
        else:
            self._write(number, node, call)
            return True
        return False

    def _write(self, number: int, node: Node, call: Call) -> None:
        assert call.name in ("write", "pwrite64"), call.name
        data = call.texts[0][: call.result]
        if call.name == "pwrite64":
            node.write(int(call.words[-1]), data)
        else:
            node.write(self._places[number], data)
            self._places[number] += len(data)

    def _parent(self, path: str) -> tuple[Node, str]:
        *folders, name = path[len(f"{self.root}/") :].split("/")
        node = self.top
        for folder in folders:
            node = node.names[folder]
        return node, name

    # -- after a kill ---------------------------------------------------------------------

    def close_all(self) -> None:
        """Closes all files without a sync, as when the process dies."""
        self._files.clear()
        self._places.clear()

    def shown(self) -> dict[str, bytes | None]:
        """Returns what the next process finds: every change, whether synced or not."""
        return dict(_show(self.top, "", lambda node: node.names, lambda node: bytes(node.now)))

    # -- after a power cut ----------------------------------------------------------------

    def survivors(self, chance: random.Random, odd: int) -> Iterator[dict[str, bytes | None]]:
        """Yields possible contents of the disk: nothing unsynced, everything, and `odd` mixtures.

        Each is by path below the root, with None for a folder.
        """
        yield dict(_show(self.top, "", lambda node: node.synced_names, lambda node: node.synced))
        yield self.shown()
        for _ in range(odd):
            yield dict(
                _show(
                    self.top,
                    "",
                    lambda node: chance.choice((node.synced_names, node.names)),
                    lambda node: _torn(node, chance),
                )
            )


def _show(node, path, names, content) -> Iterator[tuple[str, bytes | None]]:
    for name, inner in names(node).items():
        if name.endswith("-shm"):
            continue  # memory that processes share, which does not matter after a crash
        yield f"{path}{name}", None if inner.folder else content(inner)
        if inner.folder:
            yield from _show(inner, f"{path}{name}/", names, content)


def _torn(node: Node, chance: random.Random) -> bytes:
    """Returns some of the unsynced bytes: a prefix, zeros instead of them, or random sectors."""
    before, after = node.synced, bytes(node.now)
    if before == after:
        return after
    size = max(len(before), len(after))
    differs = [
        at for at in range(0, size, SECTOR) if before[at : at + SECTOR] != after[at : at + SECTOR]
    ]
    cut = chance.choice(differs)
    way = chance.choice(("prefix", "byte", "zeros", "sectors"))
    if way == "byte":
        cut = max(0, cut + chance.choice((-1, 1)))
    if way in ("prefix", "byte"):
        return after[:cut] + before[cut:]
    kept = {at for at in differs if way == "sectors" and chance.random() < 0.5}
    kept |= {at for at in differs if way == "zeros" and at < cut}
    mixed = bytearray(before.ljust(len(after), b"\0"))
    for at in kept:
        mixed[at : at + SECTOR] = after[at : at + SECTOR]
    return bytes(mixed)


def restore(survivor: dict[str, bytes | None], root: Path) -> None:
    """Writes the content of a disk below `root`."""
    for name, content in survivor.items():
        path = root / name
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)

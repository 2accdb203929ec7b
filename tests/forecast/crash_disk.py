"""Disks for tests: one that is quick, and one on which the program dies.

`CrashDisk` dies at its n-th file operation, which may be half done by then. After a power cut only
what was synced is left: content by syncing the file, names by syncing the folder they are in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from forecast.storage import Disk


class Crash(BaseException):
    """The program dies here; no code may catch it."""


class QuickDisk(Disk):
    """Does not wait for the disk."""

    def sync(self, path: Path) -> None:
        assert path.exists()


@dataclass
class _Node:
    """A file or folder: what a power cut leaves of it."""

    content: bytes = b""
    names: dict[str, _Node] | None = None


@dataclass
class CrashDisk(QuickDisk):
    """Dies at operation number `at` (0 is the first; None never), counting in `done`."""

    root: Path
    at: int | None = None
    power_cut: bool = False
    done: int = 0
    _live: dict[Path, _Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._adopt(self.root)

    def write(self, path: Path, data: bytes) -> None:
        if not path.exists():
            self._live[path] = _Node()
        self._step(lambda: super(CrashDisk, self).write(path, data[: len(data) // 2]))
        super().write(path, data)

    def append(self, path: Path, data: bytes) -> None:
        self._step(lambda: super(CrashDisk, self).append(path, data[: len(data) // 2]))
        super().append(path, data)

    def truncate(self, path: Path, size: int) -> None:
        self._step()
        super().truncate(path, size)

    def sync(self, path: Path) -> None:
        self._step()
        node = self._live[path]
        if node.names is None:
            node.content = path.read_bytes()
        else:
            node.names = {each.name: self._live[each] for each in path.iterdir()}

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)
        for path in [each for each in self._live if each.is_relative_to(source)]:
            self._live[target / path.relative_to(source)] = self._live.pop(path)

    def make_folder(self, path: Path) -> None:
        self._step()
        if not path.exists():
            self._live[path] = _Node(names={})
        super().make_folder(path)

    def remove(self, path: Path) -> None:
        self._step(lambda: self._remove_one(path))
        super().remove(path)
        for gone in [each for each in self._live if each.is_relative_to(path)]:
            del self._live[gone]

    def _remove_one(self, path: Path) -> None:
        if path.is_dir() and (inside := sorted(path.iterdir())):
            inside[0].unlink()

    def die(self) -> None:
        """After a power cut, put back what was synced and nothing else."""
        if self.power_cut:
            super().remove(self.root)
            _restore(self.root, self._live[self.root])

    def _step(self, half=lambda: None) -> None:
        if self.done == self.at:
            half()
            self.die()
            raise Crash
        self.done += 1

    def _adopt(self, path: Path) -> _Node:
        """What was there before is durable."""
        if path.is_dir():
            node = _Node(names={each.name: self._adopt(each) for each in path.iterdir()})
        else:
            node = _Node(content=path.read_bytes())
        self._live[path] = node
        return node


def _restore(path: Path, node: _Node) -> None:
    if node.names is None:
        path.write_bytes(node.content)
        return
    path.mkdir()
    for name, child in node.names.items():
        _restore(path / name, child)

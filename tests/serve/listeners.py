"""Which sockets the processes of one Ray session listen on, as the kernel tells it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LISTENING = "0A"
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """One listening TCP socket."""

    address: str
    port: int
    process: str

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        address = ipaddress.ip_address(self.address)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def listeners(folder: str | Path, *, root: int | None = None) -> list[Listener]:
    """The listening TCP sockets of every process that belongs to the session in `folder`.

    A process belongs to it when its command line or its environment names the folder, when it is
    `root`, or when it descends from one that does.
    """
    owned = session_pids(str(folder), root=root)
    sockets = {inode: pid for pid in owned for inode in _sockets_of(pid)}
    found = {
        Listener(address, port, process_name(sockets[inode]))
        for table in ("tcp", "tcp6")
        for address, port, inode in _listening(_PROC / "net" / table)
        if inode in sockets
    }
    return sorted(found)


def session_pids(folder: str, *, root: int | None = None) -> set[int]:
    """The processes of the session in `folder`, and what they started."""
    parents = {int(path.name): _parent(path) for path in _PROC.iterdir() if path.name.isdecimal()}
    owned = {pid for pid in parents if pid == root or _names(pid, folder.encode())}
    while more := {pid for pid, parent in parents.items() if parent in owned} - owned:
        owned |= more
    return owned


def process_name(pid: int) -> str:
    """What a process calls itself: Ray's workers say which actor they are."""
    words = _read(_PROC / str(pid) / "cmdline").replace(b"\0", b" ").decode(errors="replace")
    if words.startswith("ray::"):
        return words.strip()
    known = ("gcs_server", "raylet", "dashboard/agent.py", "dashboard.py", "log_monitor.py",
             "monitor.py", "runtime_env/agent/main.py", "haproxy")  # fmt: skip
    return next((name for name in known if name in words), words.strip()[:80])


def resident_bytes(pid: int) -> int:
    """How much memory a process holds now."""
    for line in _read(_PROC / str(pid) / "status").splitlines():
        if line.startswith(b"VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _listening(table: Path) -> Iterator[tuple[str, int, int]]:
    for line in _read(table).decode().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTENING:
            address, _, port = fields[1].partition(":")
            yield _address(address), int(port, 16), int(fields[9])


def _address(hexadecimal: str) -> str:
    """The kernel prints an address as 32 bit words of the machine, each in its byte order."""
    raw = bytes.fromhex(hexadecimal)
    packed = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _sockets_of(pid: int) -> Iterator[int]:
    try:
        descriptors = list((_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return  # it ended meanwhile
    for descriptor in descriptors:
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            yield int(target[8:-1])


def _names(pid: int, folder: bytes) -> bool:
    return any(folder in _read(_PROC / str(pid) / name) for name in ("cmdline", "environ"))


def _parent(process: Path) -> int:
    # The name, in brackets, may hold anything: what follows it does not.
    fields = _read(process / "stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it ended meanwhile

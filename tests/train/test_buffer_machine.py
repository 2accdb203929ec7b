"""The buffer under everything at once: any order, retries, kills, power cuts, disks that fail.

Whatever happens, what was acknowledged is there, and once the client has sent again what was not,
the grid is that of all blocks sent once, in the order of their time.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from forecast.errors import StateError
from tests.forecast.crash_disk import Crash, CrashDisk
from tests.train.streams import SCHEMA, STEP_S, block_of, buffer_of, value

BEGIN, SPAN = 1000, 24  # slots that all lie within the out-of-order window of two hours
SERVERS = ("a", "b", "c")
SAMPLE = st.tuples(
    st.sampled_from(SERVERS),
    st.integers(BEGIN * STEP_S, (BEGIN + SPAN) * STEP_S - 1),
    st.sampled_from(SCHEMA.names),
    st.sampled_from([0.1, 0.2, 1.7, 40.0, 1e5]),
)
FIRST = [(server, BEGIN * STEP_S, "cpu", 0.5) for server in SERVERS]


class FailingDisk(CrashDisk):
    """A crash disk that can also refuse the next sync, or the next append half way."""

    refuses: str | None = None

    def sync(self, path):
        self._refuse("sync")
        super().sync(path)

    def append(self, path, data):
        if self.refuses == "append":
            with path.open("ab") as file:
                file.write(data[: len(data) // 2])
        self._refuse("append")
        super().append(path, data)

    def _refuse(self, operation):
        if self.refuses == operation:
            self.refuses = None
            raise OSError(28, "No space left on device")


class Streams(RuleBasedStateMachine):
    """A client that sends, and sends again, and a machine that fails in every way it can."""

    @initialize(acknowledge=st.sampled_from(["write", "fsync"]))
    def begin(self, acknowledge):
        self.settings = {"acknowledge": acknowledge, "snapshot_every_bytes": 2500}
        self.folder = Path(tempfile.mkdtemp())
        self.disk = FailingDisk(self.folder)
        self.buffer = buffer_of(self.folder, disk=self.disk, **self.settings)
        self.sent = {"first": FIRST}
        self.reports = {"first": self.buffer.append("first", block_of(FIRST))}
        self.waiting = {}

    @rule(samples=st.lists(SAMPLE, min_size=1, max_size=6))
    def send(self, samples):
        name = f"request-{len(self.sent)}"
        self.sent[name] = samples
        self._write(name)

    @rule(data=st.data())
    def send_again(self, data):
        self._write(data.draw(st.sampled_from(sorted(self.sent))))

    @rule()
    def commit(self):
        if self._done(self.buffer.sync):
            self._acknowledge()

    @rule(after=st.integers(0, 3), samples=st.lists(SAMPLE, min_size=1, max_size=3))
    def die_within_some_operation(self, after, samples):
        self.disk.at = self.disk.done + after
        self.send(samples)
        self.commit()
        self.disk.at = None

    @rule()
    def kill(self):
        self._restart()

    @precondition(lambda self: self.settings["acknowledge"] == "fsync")
    @rule()
    def cut_the_power(self):
        self.disk.power_cut = True
        self.disk.die()
        self.disk.power_cut = False
        self._restart()

    @rule(operation=st.sampled_from(["sync", "append"]))
    def fail_next(self, operation):
        self.disk.refuses = operation

    def teardown(self):
        if not hasattr(self, "buffer"):
            return
        self._restart()
        for name in self.sent:
            self._write(name)
        self.commit()
        copied = Path(f"{self.folder}-copy")
        shutil.copytree(self.folder, copied)
        restarted = buffer_of(copied, **self.settings)
        shutil.rmtree(self.folder)
        shutil.rmtree(copied)
        whole = buffer_of()
        samples = [sample for samples in self.sent.values() for sample in samples]
        whole.append("all", block_of(sorted(samples, key=lambda sample: sample[1])))
        assert set(self.reports) == set(self.sent)
        assert cells(self.buffer) == cells(restarted) == cells(whole)
        assert self.buffer.servers(BEGIN + SPAN) == whole.servers(BEGIN + SPAN)

    def _write(self, name):
        """Send a request; its answer is the first one's, if that was acknowledged."""

        def write():
            self.waiting[name] = self.buffer.write(name, block_of(self.sent[name]))

        if self._done(write) and self.buffer.settled:
            self._acknowledge()

    def _acknowledge(self):
        for name, report in self.waiting.items():
            assert self.reports.setdefault(name, report) == report
        self.waiting = {}

    def _done(self, what):
        """Whether it went well; after a crash there is another process, after an error a retry."""
        try:
            what()
        except Crash:
            self._restart()
        except StateError:
            self.waiting = {}
            self.disk.refuses = None
            if self.buffer.stopped:
                self._done(self.buffer.recover)
        else:
            return True
        return False

    def _restart(self):
        """Another process on the same files: nothing acknowledged is missing."""
        self.disk.at = self.disk.refuses = None
        self.waiting = {}
        self.buffer = buffer_of(self.folder, disk=self.disk, **self.settings)
        for name, report in self.reports.items():
            assert self.buffer.write(name, block_of([])) == report


def cells(buffer):
    """Every value that was observed."""
    return {
        (server, slot, metric): number
        for server in SERVERS
        for slot in range(BEGIN, BEGIN + SPAN)
        for metric in SCHEMA.names
        if (number := value(buffer, server, slot, metric)) == number
    }


TestStreams = Streams.TestCase
TestStreams.settings = settings(max_examples=60, stateful_step_count=20)

"""What the servers of the demo fleet do: the arithmetic behind `connect.fleet`.

A server's load is a daily and a weekly rhythm in its local time, slow noise that multiplies it,
jobs that come at random or regularly, and a cron job. The metrics follow from the load. All noise
is white noise drawn per day, passed through filters no longer than a day, so that a day can be
made from itself and the two days before it.

Arrays: n slots of one server in order of time; time constants are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

METRICS = (
    "cpu_usage_ratio",
    "memory_usage_ratio",
    "network_receive_bytes_per_s",
    "network_transmit_bytes_per_s",
    "disk_write_bytes_per_s",
    "load_per_cpu",
)
MINUTE, HOUR, DAY = 60, 3600, 86_400
_MEMORY_FOLLOWS_LOAD_S = 2 * HOUR
_QUEUE_FOLLOWS_LOAD_S = 10 * MINUTE
_CRON_S = 45 * MINUTE


@dataclass(frozen=True, slots=True)
class Profile:
    """How a role behaves. Loads are shares of one CPU, hours and weekdays are local."""

    level: float
    """Load in the busiest hour."""
    night: float
    """The quietest hour's share of it."""
    peaks: tuple[tuple[float, float], ...]
    """Hour and relative height of the day's busy times."""
    weekend: float
    """Share of the load that is left at the weekend."""
    slow: float
    """Deviation of the log of the load's slow noise; it decays within `slow_s`."""
    slow_s: float
    noise: float
    """Fast noise as a share of the load: a busy server is a noisy one."""
    jobs_per_day: float = 0.0
    job: float = 0.0
    """Mean load that a job which comes at random adds; it decays within `job_s`."""
    job_s: float = 20 * MINUTE
    cycle: float = 0.0
    """Load that the regular job adds when it starts, every `cycle_s`; it falls to 0 in between."""
    cycle_s: float = HOUR
    cron: float = 0.1
    """Load that the job at `cron_hour` adds."""
    cron_hour: float = 6.0
    memory: float = 0.4
    """Share of memory in use without load; `memory_gain` more per unit of load."""
    memory_gain: float = 0.4
    leak: float = 0.0
    """Share of memory lost in a week; a restart on Tuesday at 04:00 gives it back."""
    receive: float = 2e7
    """Bytes per second and unit of load, as are the next two."""
    transmit: float = 2e7
    disk: float = 1e7
    flush: float = 0.0
    """Height of the regular flush to disk, as a multiple of the other writing."""
    flush_s: float = HOUR / 2


WEB = Profile(
    level=0.55, night=0.18, peaks=((20.0, 1.0), (12.5, 0.7)), weekend=1.15, slow=0.13,
    slow_s=3 * HOUR, noise=0.09, memory=0.35, memory_gain=0.25, leak=0.18, receive=1.2e7,
    transmit=6e7, disk=2e6,
)  # fmt: skip
CACHE = Profile(
    level=0.32, night=0.25, peaks=((20.5, 1.0), (12.0, 0.5)), weekend=1.1, slow=0.10,
    slow_s=4 * HOUR, noise=0.12, memory=0.62, memory_gain=0.5, receive=5e7, transmit=9e7,
    disk=1e6, cron=0.03,
)  # fmt: skip
DATABASE = Profile(
    level=0.50, night=0.22, peaks=((10.5, 1.0), (15.0, 0.9)), weekend=0.45, slow=0.15,
    slow_s=HOUR, noise=0.10, cron=0.22, memory=0.50, memory_gain=0.30, leak=0.06, receive=4e7,
    transmit=5e7, disk=4e7, flush=1.4,
)  # fmt: skip
BATCH = Profile(
    level=0.30, night=0.12, peaks=((2.5, 1.0),), weekend=0.8, slow=0.20, slow_s=2 * HOUR,
    noise=0.10, jobs_per_day=14, job=0.22, cron=0.30, memory=0.25, memory_gain=0.6,
    receive=6e7, transmit=1.5e7, disk=6e7,
)  # fmt: skip

BEFORE = {"web": WEB, "database": DATABASE, "batch": BATCH, "cache": CACHE}
"""Each role's behaviour at first."""

# The planned change: the batch servers run their jobs every 45 minutes and the cron job in the
# afternoon; the databases take over another region's evening traffic and recompute their views
# every 40 minutes. A change of level alone would teach nothing: a window's own scale absorbs it.
AFTER = BEFORE | {
    "database": replace(
        DATABASE, peaks=((20.0, 1.0), (0.5, 0.8)), level=0.42, weekend=0.8, slow=0.28,
        slow_s=6 * HOUR, cycle=0.24, cycle_s=40 * MINUTE, cron_hour=13.0, flush_s=40 * MINUTE,
    ),
    "batch": replace(
        BATCH, night=1.0, level=0.09, slow=0.40, slow_s=4 * HOUR, jobs_per_day=2, cycle=0.36,
        cycle_s=45 * MINUTE, cron_hour=14.0,
    ),
}  # fmt: skip
"""Each role's behaviour after the fleet's lasting change."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of n slots: epoch seconds, local minutes since midnight, weekday (Monday is 0)."""

    second: NDArray[np.int64]
    minute: NDArray[np.int64]
    weekday: NDArray[np.int64]

    def after(self, slots: int) -> Clock:
        """The same without the first `slots`."""
        return Clock(self.second[slots:], self.minute[slots:], self.weekday[slots:])


@dataclass(frozen=True, slots=True)
class Character:
    """How one server differs from its role."""

    size: float
    """Factor on its load."""
    traffic: float
    """Factor on its bytes."""
    phase_h: float
    """Hours by which its day runs late."""
    offset_s: float
    """Where in their period its regular jobs start."""


@dataclass(frozen=True, slots=True)
class Draws:
    """White noise of n slots: `normal` [7, n] standard normal, `uniform` [2, n] in [0, 1)."""

    normal: FloatArray
    uniform: FloatArray

    def after(self, slots: int) -> Draws:
        """The same without the first `slots`."""
        return Draws(self.normal[:, slots:], self.uniform[:, slots:])


def load(
    profile: Profile, character: Character, draws: Draws, clock: Clock, *, taps: int
) -> FloatArray:
    """Load [n - taps] of the slots that have a day, which is `taps` slots, before them."""
    step, now = DAY // taps, clock.after(taps)
    hour = now.minute / 60
    day = _daily_shape(profile, hour - character.phase_h)
    week = np.where(now.weekday >= 5, profile.weekend, 1.0)
    slow = profile.slow * trailing(draws.normal[0], _unit(_decay(profile.slow_s, step, taps)))
    rhythm = profile.level * day * week * np.exp(slow)
    arrives = draws.uniform[0] < profile.jobs_per_day / taps
    size = -profile.job * np.log1p(-draws.uniform[1])
    jobs = trailing(np.where(arrives, size, 0.0), _decay(profile.job_s, step, taps))
    saw = np.clip(1 - _place(profile.cycle_s, character, now) / 0.8, 0, 1)
    cycle = profile.cycle * saw * np.exp(slow)
    made: FloatArray = rhythm + jobs + cycle + profile.cron * _cron(profile, hour)
    return character.size * made


def metrics(
    profile: Profile,
    character: Character,
    draws: Draws,
    clock: Clock,
    load_values: FloatArray,
    *,
    taps: int,
) -> FloatArray:
    """All metrics [n - taps, 6] in natural units of a server under `load_values` [n]."""
    step, now = DAY // taps, clock.after(taps)
    noise = draws.normal[1:, taps:]
    work, hour, scale = load_values[taps:], now.minute / 60, character.traffic
    cpu = 0.02 + work * (1 + profile.noise * noise[0]) + 0.004 * noise[1]
    follows = trailing(load_values, _mean(_decay(_MEMORY_FOLLOWS_LOAD_S, step, taps)))
    week = (now.weekday * 1440 + now.minute - 1680) % 10_080 / 10_080
    memory = profile.memory + profile.memory_gain * follows + profile.leak * week
    memory = memory + 0.003 * noise[2]
    receive = scale * profile.receive * (0.03 + work) * np.exp(0.14 * noise[3])
    transmit = scale * profile.transmit * (0.03 + work**1.1) * np.exp(0.14 * noise[4])
    flush = 1 + profile.flush * np.exp(-5 * _place(profile.flush_s, character, now))
    backup = 1 + 4 * profile.cron * _cron(profile, hour)
    disk = scale * profile.disk * (0.08 + work) * flush * backup * np.exp(0.22 * noise[5])
    queue = trailing(load_values, _mean(_decay(_QUEUE_FOLLOWS_LOAD_S, step, taps)))
    waiting = 1.5 * queue / np.maximum(1 - 0.6 * queue, 0.25) + 0.02 * noise[1]
    return np.stack([cpu, memory, receive, transmit, disk, waiting], axis=1)


def natural(values: FloatArray) -> FloatArray:
    """The same within the metrics' bounds, rounded as an agent would report them."""
    ratios = np.round(np.clip(values[..., :2], 0.0, 1.0), 4)
    rates = np.round(np.maximum(values[..., 2:5], 0.0))
    queue = np.round(np.maximum(values[..., 5:], 0.0), 3)
    return np.concatenate([ratios, rates, queue], axis=-1)


def trailing(values: FloatArray, weights: FloatArray) -> FloatArray:
    """sum over k of weights[k] * values[t - k], for all t but the first len(weights)."""
    filtered: FloatArray = np.convolve(values, weights, mode="valid")[1:]
    return filtered


def _daily_shape(profile: Profile, hour: FloatArray) -> FloatArray:
    bumps = [
        height * np.exp(3.0 * (np.cos((hour - at) * (np.pi / 12)) - 1))
        for at, height in profile.peaks
    ]
    shape: FloatArray = profile.night + (1 - profile.night) * np.max(bumps, axis=0)
    return shape


def _place(period_s: float, character: Character, clock: Clock) -> FloatArray:
    """How much of a regular job's period has passed, in [0, 1)."""
    late: FloatArray = np.remainder(clock.second + character.offset_s, period_s)
    return late / period_s


def _cron(profile: Profile, hour: FloatArray) -> FloatArray:
    since = (hour - profile.cron_hour) % 24 * HOUR / _CRON_S
    job: FloatArray = np.where(since < 1, 1 - 0.5 * since, 0.0)
    return job


def _decay(time_s: float, step: int, taps: int) -> FloatArray:
    kernel: FloatArray = np.exp(-np.arange(taps) * (step / time_s))
    return kernel


def _unit(kernel: FloatArray) -> FloatArray:
    unit: FloatArray = kernel / np.sqrt(np.sum(kernel**2))
    return unit


def _mean(kernel: FloatArray) -> FloatArray:
    mean: FloatArray = kernel / np.sum(kernel)
    return mean

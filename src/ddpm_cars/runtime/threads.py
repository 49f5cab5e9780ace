"""How many threads compute on a CPU, and how long a thread that waits for the others keeps its core busy."""

import hashlib
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from ddpm_cars.runtime.console import count, note

BOUNDED_SPINNING = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""For GNU's OpenMP a number of looks at a flag, a tenth of a millisecond; for LLVM's and Intel's, milliseconds."""
_OWN_SPINNING = (*BOUNDED_SPINNING, "OMP_WAIT_POLICY", "KMP_LIBRARY")
_OWN_NUMBER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows the limits of containers."""

# A core that is free for three quarters is worth a thread. On an idle machine a little less than all is measured.
_SPARE_CORE = 0.25
_LOOK_SECONDS = 0.1
_SECONDS_BETWEEN_LOOKS, _MAX_SECONDS_BETWEEN_LOOKS = 60.0, 960.0
_WINDOW_SECONDS, _WINDOW_STEPS = 3.0, 2
SLOWER = 3.0
"""Steps that take so many times as long as at best are worth a look at the processor."""


def bound_spinning() -> None:
    """Make threads that wait for others sleep early; call it before torch is imported, as OpenMP reads this once.

    As it is, a thread of GNU's OpenMP looks for the others for milliseconds, and one of LLVM's or Intel's for 200,
    many times in a step. Where cores are short it keeps the very core busy that the others wait for. Child processes
    inherit the setting. Whoever has set one of these variables is left alone.
    """
    if not any(name in os.environ for name in _OWN_SPINNING):
        os.environ.update(BOUNDED_SPINNING)


def num_cores() -> int:
    """Return how many cores this process may use, by its affinity and by the limit of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota())))


def group_limits(name: str) -> list[str]:
    """Return what the file `name` says in the control group of this process and in those around it.

    It is one of version 2 of Linux' control groups; there is none elsewhere.
    """
    cgroup = Path("/proc/self/cgroup")
    lines = cgroup.read_text(encoding="utf-8").splitlines() if cgroup.exists() else []
    # The line of version 2 begins with 0 and names no controllers. A limit of a group holds for those within it.
    groups = [CGROUPS / line[3:].strip("/") for line in lines if line.startswith("0::")]
    files = [folder / name for group in groups for folder in (group, *group.parents)]
    return [file.read_text(encoding="utf-8") for file in files if file.is_file()]


def _quota() -> float:
    """Return the cores that control groups of Linux allow, infinity where there is no limit."""
    limits = [text.split() for text in group_limits("cpu.max")]
    return min((int(quota) / int(period) for quota, period in limits if quota != "max"), default=math.inf)


def free_cores(num_threads: int, seconds: float = _LOOK_SECONDS) -> float:
    """Return how many cores `num_threads` threads get between them now, at most `num_threads`.

    It computes on all of them for `seconds` and compares the time of the cores with that of the clock.
    """
    start, block = Barrier(num_threads), bytes(2**22)

    def share() -> float:
        start.wait()
        began, used = time.perf_counter(), time.thread_time()
        while time.perf_counter() - began < seconds:
            # Python lets other threads run while it hashes a block.
            hashlib.sha256(block)
        return (time.thread_time() - used) / (time.perf_counter() - began)

    with ThreadPoolExecutor(num_threads) as pool:
        shares = [pool.submit(share) for _ in range(num_threads)]
        return min(float(num_threads), sum(part.result() for part in shares))


def has_own_number() -> bool:
    """Return whether the person or the launcher that started this process has set the number of threads."""
    return any(os.environ.get(name) for name in _OWN_NUMBER)


class SlownessWatch:
    """Learns from the seconds of steps when it is time to look at the processor again, and how slow steps have become.

    Args:
        has_looked: Whether somebody has found other programs on the processor just now, so that a look can wait.
    """

    def __init__(self, has_looked: bool):
        self.seconds_between_looks = _SECONDS_BETWEEN_LOOKS
        self._best = math.inf
        self._means = [math.inf]  # Of the windows so far: the mean seconds of a step.
        self._window = [0.0, 0.0]  # The seconds and the number of steps since the last window.
        self._since_look = 0.0 if has_looked else math.inf

    def after_step(self, seconds: float, is_lowered: bool) -> float | None:
        """Return how many times slower than at best steps have become if it is time to look, else None.

        Args:
            seconds: The seconds of the last step.
            is_lowered: Whether fewer threads compute than could.
        """
        self._window = [self._window[0] + seconds, self._window[1] + 1]
        self._since_look += seconds
        total, steps = self._window
        if total < _WINDOW_SECONDS or steps < _WINDOW_STEPS:
            return None
        self._window, self._means = [0.0, 0.0], [self._means[-1], total / steps]
        self._best = min(self._best, *self._means)
        # One slow window may be a pause of the whole machine.
        factor = min(self._means) / self._best
        if self._since_look < self.seconds_between_looks or not (is_lowered or factor >= SLOWER):
            return None
        self._since_look = 0.0
        return factor


class ComputingThreads:
    """The threads that torch computes with on a CPU: as many as cores are free, unless somebody has set their number.

    It is a context manager, which in the end leaves torch with the number that there was.

    Args:
        device_type: The type of the device that the network is on; threads matter if it is "cpu".

    Attributes:
        num_threads: How many threads compute now.
        max_threads: How many compute if all cores are free.
    """

    def __init__(self, device_type: str):
        # Torch takes long to import, and this module is for before.
        import torch

        self._torch, self._before = torch, torch.get_num_threads()
        self._is_on_cpu, self._is_fixed = device_type == "cpu", has_own_number()
        self._has_complained = False
        self.num_threads = self.max_threads = self._before
        if self._is_on_cpu and not self._is_fixed:
            self.max_threads = min(self._before, num_cores())
            free = free_cores(self.max_threads) if self.max_threads > 1 else 1.0
            self._compute_with(_threads_for(free))
        if self.is_lowered:
            note(
                f"computing with {count(self.num_threads, 'thread')} and not {self.max_threads}, because other "
                f"programs use the processor; OMP_NUM_THREADS={self.max_threads} computes with all"
            )
        self._watch = SlownessWatch(has_looked=self.is_lowered)

    @property
    def is_lowered(self) -> bool:
        """Return whether fewer threads compute than could."""
        return self.num_threads < self.max_threads

    def _compute_with(self, num_threads: int) -> None:
        if num_threads != self._torch.get_num_threads():
            self._torch.set_num_threads(num_threads)
        self.num_threads = num_threads

    def keep(self, max_threads: int) -> None:
        """Take `max_threads` over from an earlier part of a run: sums are rounded by it, and so are the weights.

        Where this process cannot have as many, or somebody has set another number, it says so.
        """
        if not self._is_on_cpu or max_threads == self.max_threads:
            return
        began_with = count(max_threads, "thread")
        if self._is_fixed or max_threads > self.max_threads:
            note(
                f"the run began with {began_with} and goes on with {self.max_threads}, so its weights will differ by "
                "rounding from those of a run without a break"
            )
            return
        note(f"going on with {began_with}, as the run began; OMP_NUM_THREADS={self.max_threads} uses more")
        self.max_threads = max_threads
        self._compute_with(min(self.num_threads, max_threads))

    def after_step(self, seconds: float) -> None:
        """Follow the seconds of steps, and change the number of threads where other programs have come or gone."""
        factor = self._watch.after_step(seconds, self.is_lowered) if self._is_on_cpu else None
        if factor is not None:
            self._adapt(factor, free_cores(self.max_threads))

    def _adapt(self, factor: float, free: float) -> None:
        best, slower = _threads_for(free), f"steps have become {factor:.0f} times slower"
        if best < self.num_threads and self._is_fixed:
            self._complain(
                f"{slower}: other programs use the processor; {count(best, 'thread')} would be quicker than the "
                f"{self.num_threads} of OMP_NUM_THREADS"
            )
        elif best < self.num_threads:
            why = f"{slower}: other programs use the processor" if factor >= SLOWER else "fewer cores are free"
            note(f"{why}; going on with {count(best, 'thread')}")
            self._compute_with(best)
            # Programs that come and go would make the number change every minute.
            self._watch.seconds_between_looks = min(2 * self._watch.seconds_between_looks, _MAX_SECONDS_BETWEEN_LOOKS)
        elif best > self.num_threads and best >= min(self.max_threads, 1.5 * self.num_threads):
            note(f"cores are free again; going on with {count(best, 'thread')}")
            self._compute_with(best)
        elif factor >= SLOWER and free < 1 - _SPARE_CORE:
            self._complain(f"{slower}: other programs leave it {free:.1f} of a core; stop them, or wait for their end")
        elif factor >= SLOWER and not self.is_lowered:
            self._complain(f"{slower}, though cores are free: see whether memory is short or the processor is too hot")

    def _complain(self, text: str) -> None:
        # It would be as true a minute later.
        if not self._has_complained:
            note(text)
        self._has_complained = True

    def close(self) -> None:
        """Leave torch with the number of threads that there was."""
        self._compute_with(self._before)

    def __enter__(self) -> "ComputingThreads":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _threads_for(free: float) -> int:
    return max(1, math.floor(free + _SPARE_CORE))

"""What a process that reads ahead for training does with itself."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from wan_alpha.data.resize import one_thread

GRACE = 60.0
"""Seconds that a worker lives on after SIGTERM: those who end a job signal all its processes at once."""


def init_worker(worker: int = 0) -> None:
    """Compute with one thread, and outlive the signals at whose sight the run itself finishes its step and saves.

    A worker whose run has ended gets no more work and ends by itself long before `GRACE` is over.
    """
    one_thread()
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)


def _end_later(*_: Any) -> None:
    timer = threading.Timer(GRACE, os._exit, (0,))
    timer.daemon = True
    timer.start()

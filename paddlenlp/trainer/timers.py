"""Where the time of a step goes, for `skip_profile_timer false`."""

from __future__ import annotations

import contextlib
import time
from typing import Dict, Iterator

import paddle

from paddlenlp.parallel.heartbeat import beat


class Phases:
    """Sums the time of named parts of the steps. Where it is off it costs nothing, and nothing waits for the device."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.seconds: Dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the block as part `name`, which is also what the watchdog calls it."""
        start = time.perf_counter()
        with beat.phase(name):
            yield
        if not self.enabled:
            return
        if paddle.get_device().startswith("gpu"):
            paddle.device.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def report(self, global_step: int, steps: int) -> str:
        """The profile line: milliseconds of each part, mean of the last `steps` steps; starts new sums."""
        parts = " | ".join(f"{name}: {1000 * total / max(1, steps):.2f}" for name, total in self.seconds.items())
        self.seconds = {}
        return f"[Profile global_step: {global_step}] time (ms) | {parts}"

"""Drain everything that is pending in a process like those of a worker's pool; prints what that took, as JSON.

``python -m scripts.benchmark.draining``, with the settings of the service in the environment.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from tasks import pipeline


def memory() -> tuple[int, int]:
    """Bytes that are resident in this process, and the most that ever were since it began.

    Not ``ru_maxrss``: a process inherits that from the one that has started it.
    """
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    return _bytes(fields["VmRSS"]), _bytes(fields["VmHWM"])


def _bytes(value: str) -> int:
    kibibytes, _unit = value.split()
    return 1024 * int(kibibytes)


def main() -> None:
    """Drain until every shard was empty once."""
    pipeline.status()  # connects to both servers
    before, _ = memory()
    began, began_cpu = time.perf_counter(), time.process_time()
    reports = list(pipeline.drain())
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    _, peak = memory()
    print(
        json.dumps(
            {
                "events": sum(report.events for report in reports),
                "rows": sum(report.rows for report in reports),
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "memory_before": before,
                "memory_peak": peak,
            }
        )
    )


if __name__ == "__main__":
    main()

"""How many cores there are to work with."""

import os


def available_cores() -> int:
    """Cores that this process may use: fewer than the machine's where it was confined to some (taskset, containers)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""bootstrap_loop.py with a fault at its n-th write: python loop_harness.py MODE N ARGUMENTS...

Every result of the loop goes through utils.files.write_bytes_atomic. MODE kill-before: the temporary file is written,
and the loop is killed before it takes its place; kill-after: right after that; full: the disk is full; count: nothing
happens, and the number of writes is printed.
"""

import errno
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import bootstrap_loop  # noqa: E402
from utils import files  # noqa: E402


class Faulty:
    """Stands for the module `os` in utils.files."""

    def __init__(self, mode: str, at: int):
        self.mode, self.left, self.count = mode, at, 0

    def __getattr__(self, name: str):
        return getattr(os, name)

    def fsync(self, handle: int) -> None:
        self.count += 1
        self.left -= 1
        if self.left == 0 and self.mode == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.left == 0 and self.mode == "kill-before":
            os.kill(os.getpid(), signal.SIGKILL)

    def replace(self, source: str, place: Path) -> None:
        os.replace(source, place)
        if self.left == 0 and self.mode == "kill-after":
            os.kill(os.getpid(), signal.SIGKILL)


mode, at, *arguments = sys.argv[1:]
files.os = faulty = Faulty(mode, int(at))
sys.argv = ["bootstrap_loop.py", *arguments]
code = bootstrap_loop.main()
if mode == "count":
    print(f"writes {faulty.count}")
sys.exit(code)

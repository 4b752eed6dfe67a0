"""Windows: whatever ends the loop, the Task Manager included, ends the step that it runs.

Linux has a signal for that (mirror/loop/steps.py, `_die_with_parent`), Windows has job objects: a process in one starts
its children in it, and with JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE the system ends all of them when nobody holds the job
any more (learn.microsoft.com, "Job Objects"; winnt.h). The loop puts itself into a job of which it holds the only
handle, so that no child has a moment in which it is outside.

Written by those pages and reviewed, but never run on Windows: the tests hold it against a stand-in of kernel32.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import wintypes
from functools import cache
from typing import Any

_KILL_ON_JOB_CLOSE = 0x2000
_EXTENDED_LIMITS = 9  # JobObjectExtendedLimitInformation


class _BasicLimits(ctypes.Structure):
    """JOBOBJECT_BASIC_LIMIT_INFORMATION"""

    _fields_ = [
        ("PerProcessUserTimeLimit", ctypes.c_int64),
        ("PerJobUserTimeLimit", ctypes.c_int64),
        ("LimitFlags", ctypes.c_uint32),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", ctypes.c_uint32),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", ctypes.c_uint32),
        ("SchedulingClass", ctypes.c_uint32),
    ]


class _ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION"""

    _fields_ = [
        ("BasicLimitInformation", _BasicLimits),
        ("IoInfo", ctypes.c_uint64 * 6),  # IO_COUNTERS
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    ]


@cache
def end_children_with_us() -> bool:
    """Once: put this process into a job that ends with it. False where that is not Windows, or is refused.

    Refused it is by Windows 7 inside another job; then a killed loop leaves its step behind, as before.
    """
    if sys.platform != "win32":
        return False
    return _join_job(ctypes.WinDLL("kernel32", use_last_error=True))


def _join_job(kernel: Any) -> bool:
    """The handle of the job is never closed: the system does it when this process ends, and that is the signal."""
    kernel.CreateJobObjectW.restype = kernel.GetCurrentProcess.restype = wintypes.HANDLE
    kernel.CreateJobObjectW.argtypes = (wintypes.LPVOID, wintypes.LPCWSTR)
    kernel.GetCurrentProcess.argtypes = ()
    kernel.SetInformationJobObject.argtypes = (wintypes.HANDLE, ctypes.c_int, wintypes.LPVOID, ctypes.c_uint32)
    kernel.AssignProcessToJobObject.argtypes = (wintypes.HANDLE, wintypes.HANDLE)
    kernel.CloseHandle.argtypes = (wintypes.HANDLE,)
    for function in (kernel.SetInformationJobObject, kernel.AssignProcessToJobObject, kernel.CloseHandle):
        function.restype = wintypes.BOOL
    job = kernel.CreateJobObjectW(None, None)  # without a name, and not handed on to children
    if not job:
        return False
    limits = _ExtendedLimits()
    limits.BasicLimitInformation.LimitFlags = _KILL_ON_JOB_CLOSE
    size = ctypes.sizeof(limits)
    if kernel.SetInformationJobObject(
        job, _EXTENDED_LIMITS, ctypes.byref(limits), size
    ) and kernel.AssignProcessToJobObject(job, kernel.GetCurrentProcess()):
        return True
    kernel.CloseHandle(job)  # nobody is in it
    return False

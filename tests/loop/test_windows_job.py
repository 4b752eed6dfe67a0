"""The job object of Windows, as far as it can be seen from elsewhere: what the system would be given."""

import ctypes
import sys

import pytest

from mirror.loop import windows_job


class Kernel:
    """A stand-in for kernel32, with the handles of a 64-bit system; `refuses` is the call that fails."""

    def __init__(self, refuses: str = ""):
        self.calls: list[tuple] = []
        for name, answer in (
            ("CreateJobObjectW", 0x1_0000_0004),
            ("GetCurrentProcess", -1),
            ("SetInformationJobObject", 1),
            ("AssignProcessToJobObject", 1),
            ("CloseHandle", 1),
        ):
            setattr(self, name, self.function(name, None if name == refuses and "Create" in name else answer, refuses))

    def function(self, name: str, answer: object, refuses: str):
        def call(*arguments: object) -> object:
            if name == "SetInformationJobObject":
                job, kind, limits, size = arguments
                arguments = job, kind, bytes(limits._obj), size
            self.calls.append((name, *arguments))
            return 0 if name == refuses and answer is not None else answer

        return call


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="the sizes are those of 64 bits")
def test_the_loop_enters_a_job_that_ends_with_it():
    kernel = Kernel()
    assert windows_job._join_job(kernel)
    (_, job, kind, limits, size), *_ = [call for call in kernel.calls if call[0] == "SetInformationJobObject"]
    # winnt.h on 64 bits: 64 bytes of basic limits, 48 of counters, four sizes; the flags stand after two times
    assert (job, kind, size, len(limits)) == (0x1_0000_0004, 9, 144, 144)
    assert limits[16:20] == (0x2000).to_bytes(4, "little") and not any(limits[:16] + limits[20:])
    assert [call[0] for call in kernel.calls][-2:] == ["GetCurrentProcess", "AssignProcessToJobObject"]
    assert kernel.calls[-1][1:] == (0x1_0000_0004, -1), "the job, then the loop's own process; and nothing is closed"
    assert kernel.AssignProcessToJobObject.argtypes[0] is kernel.CreateJobObjectW.restype, "64 bits, not an int"


@pytest.mark.parametrize("refused", ["CreateJobObjectW", "SetInformationJobObject", "AssignProcessToJobObject"])
def test_where_the_system_refuses_the_loop_works_without(refused):
    kernel = Kernel(refused)
    assert not windows_job._join_job(kernel)
    assert (kernel.calls[-1][0] == "CloseHandle") == (refused != "CreateJobObjectW")


@pytest.mark.skipif(sys.platform == "win32", reason="there it is done")
def test_elsewhere_nothing_is_asked():
    assert not windows_job.end_children_with_us()

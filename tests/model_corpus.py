"""Model files made by the tests: ones that would do harm when they are loaded, and harmless ones.

The harm is a canary: an empty file that appears in a folder when a variant has run. Most pickles are put together
opcode by opcode, because Python's own pickler would not write them.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Evil:
    """A file that must never be loaded."""

    name: str
    data: bytes
    named: str  # what the report must name
    runs: str = ""  # what brings it to life: "pickle", "torch", or nothing that the tests have
    verdict: str = "dangerous"


class _Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: object, *arguments: object):
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.reduced


# A few opcodes (Lib/pickletools.py)


def name(module: str, what: str) -> bytes:
    """GLOBAL: two lines of text."""
    return f"c{module}\n{what}\n".encode()


def stack_name(module: bytes, what: bytes) -> bytes:
    """STACK_GLOBAL, which takes dotted names; module and name are opcodes that push them."""
    return module + what + b"\x93"


def text(value: str) -> bytes:
    """BINUNICODE"""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE"""
    return function + b"(" + b"".join(arguments) + b"tR"


def whole(body: bytes, protocol: int = 4) -> bytes:
    """PROTO, body, STOP."""
    return b"\x80" + bytes([protocol]) + body + b"."


def in_zip(members: dict[str, bytes], first: bytes = b"") -> bytes:
    """A zip archive, with `first` before it."""
    file = io.BytesIO()
    file.write(first)
    with zipfile.ZipFile(file, "a") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return file.getvalue()


def in_tar(members: dict[str, bytes]) -> bytes:
    """A tar archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def evil_files(canaries: Path, fixture: bytes | None) -> list[Evil]:
    """All variants; each touches a file of its own name in `canaries`. `fixture`: a checkpoint of yolov5-face."""
    files = [*_calls(canaries), *_tricks(canaries), *_containers(canaries)]
    if fixture:
        files.append(_poisoned(canaries, fixture))
    return files


def _touch(canaries: Path, variant: str) -> str:
    return f'touch "{canaries / variant}"'


def _calls(canaries: Path) -> list[Evil]:
    """Names that do harm by themselves."""
    import subprocess

    def python(variant: str) -> str:
        return f'open("{canaries / variant}", "w").close()'

    files = []
    for protocol in range(6):
        variant = f"system_protocol_{protocol}"
        data = pickle.dumps({"weights": [_Calls(os.system, _touch(canaries, variant))]}, protocol)
        files.append(Evil(variant, data, "posix.system('touch", "pickle"))
    for function in (eval, exec):
        variant = function.__name__
        data = pickle.dumps(_Calls(function, python(variant)), 2)
        files.append(Evil(variant, data, f"builtins.{variant}('open(", "pickle"))
    popen = _Calls(subprocess.check_output, ["sh", "-c", _touch(canaries, "subprocess")])
    inside = collections.OrderedDict(layer=[{"deep": popen}])
    files.append(Evil("subprocess", pickle.dumps(inside, 4), "subprocess.check_output(['sh'", "pickle"))
    clock = name("time", "perf_counter")
    timeit = call(name("timeit", "timeit"), text(python("timeit")), text("pass"), clock, b"K\x01")
    files.append(Evil("timeit", whole(timeit), "timeit.timeit(", "pickle"))
    code = call(name("builtins", "compile"), text(python("runpy")), text("x"), text("exec"))
    runs = call(name("runpy", "_run_code"), code, b"}")
    files.append(Evil("runpy", whole(runs), "runpy._run_code", "pickle"))
    for module, what in (("torch.hub", "load"), ("pip", "main"), ("socket", "create_connection"), ("nt", "system")):
        variant = f"{module}_{what}"
        files.append(Evil(variant, whole(call(name(module, what), text("x"))), f"{module}.{what}('x')"))
    vision = call(name("ultralytics.nn.modules.block", "TorchVision"), text("resnet18"))
    files.append(Evil("fetching_layer", whole(vision, 2), "TorchVision('resnet18')"))
    return files


def _tricks(canaries: Path) -> list[Evil]:
    """Roundabout ways to a name."""

    def touch(variant: str) -> bytes:
        return text(_touch(canaries, variant))

    module = call(name("importlib", "import_module"), text("os"))
    through_getattr = call(name("builtins", "getattr"), module, text("system"))
    imported = call(name("builtins", "__import__"), text("os"))
    attribute = call(call(name("operator", "attrgetter"), text("system")), imported)
    partial = call(call(name("functools", "partial"), name("os", "system"), touch("partial")))
    path = call(name("pathlib", "Path"), text(str(canaries / "method_of_path")))
    write = call(stack_name(text("pathlib"), text("Path.write_text")), path, text("x"))
    computed = stack_name(text("os"), call(name("builtins", "str"), text("system")))
    memo = text("os") + b"q\x00" + text("system") + b"q\x01" + b"00" + stack_name(b"h\x00", b"h\x01")
    namespace = call(name("types", "SimpleNamespace")) + b"}" + text("__setstate__") + name("os", "system") + b"sb"
    popen = name("subprocess", "Popen")
    layer = name("torch.nn.modules.conv", "Conv2d")
    own_method = call(name("builtins", "getattr"), layer, text("__init__"))
    hook = layer + b")\x81}" + text("forward") + name("os", "system") + b"sb"
    kept = name("collections", "OrderedDict") + b")R" + text("a") + name("builtins", "getattr") + b"s"
    return [
        Evil("import_chain", whole(call(through_getattr, touch("import_chain"))), "importlib.import_module", "pickle"),
        Evil("attrgetter", whole(call(attribute, touch("attrgetter"))), "operator.attrgetter('system')", "pickle"),
        Evil("partial", whole(partial), "functools.partial(os.system", "pickle"),
        Evil("method_of_path", whole(write), "pathlib.Path.write_text", "pickle"),
        Evil("torch_os", whole(call(stack_name(text("torch"), text("os.system")), touch("torch_os"))),
             "torch.os.system(", "pickle"),
        Evil("numpy_testing", whole(call(name("numpy.testing._private.utils", "runstring"), text("1"), b"}")),
             "numpy.testing._private.utils.runstring('1'"),
        Evil("numpy_os", whole(call(stack_name(text("numpy.ctypeslib"), text("os.system")), touch("numpy_os"))),
             "numpy.ctypeslib.os.system("),
        Evil("computed_name", whole(call(computed, touch("computed_name"))), "put together while loading", "pickle"),
        Evil("memoized_name", whole(call(memo, touch("memoized_name"))), "os.system('touch", "pickle"),
        Evil("inst", b"(" + touch("inst") + b"ios\nsystem\n.", "os.system('touch", "pickle"),
        Evil("obj", whole(b"(" + name("os", "system") + touch("obj") + b"o", 1), "os.system('touch", "pickle"),
        Evil("newobj", whole(popen + touch("newobj") + b"\x85\x81", 2), "subprocess.Popen('touch"),
        Evil("newobj_ex", whole(popen + b")}\x92"), "subprocess.Popen("),
        Evil("setstate", whole(namespace + touch("setstate") + b"b"), "os.system", "pickle"),
        Evil("build_on_class", whole(layer + b"}" + text("forward") + b"Nsb"), "it changes torch.nn.modules.conv"),
        Evil("method_of_layer", whole(own_method), "builtins.getattr(torch.nn.modules.conv.Conv2d, '__init__')"),
        Evil("forward_of_layer", whole(hook), "os.system"),
        Evil("getattr_for_later", whole(kept), "builtins.getattr"),
        Evil("extension", whole(b"\x82\x01"), "registered extension 1"),
        Evil("python_2_name", b"ccommands\ngetoutput\n(" + touch("python_2_name") + b"tR.",
             "subprocess.getoutput('touch", "pickle"),
        Evil("strange_project", whole(name("my_project.models", "Net") + b")\x81}b", 2), "my_project.models.Net",
             verdict="unknown"),
        Evil("called_layer", whole(call(layer, b"K\x03", b"K\x03", b"K\x01"), 2), "it calls torch.nn.modules.conv",
             verdict="unknown"),
    ]  # fmt: skip


def _containers(canaries: Path) -> list[Evil]:
    """Where a pickle can stand."""

    def evil(variant: str) -> bytes:
        return pickle.dumps(_Calls(os.system, _touch(canaries, variant)), 2)

    good, keys = pickle.dumps({"a": 1}, 2), pickle.dumps([], 2)
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    torch_zip = {"x/version": b"3\n", "x/byteorder": b"little"}
    inner = in_zip({"deep/other.bin": evil("nested_zip")})
    array = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    cut_off = whole(call(name("os", "system"), text(_touch(canaries, "cut_off"))))[:-1]
    # eight bytes that are a length for safetensors and the start of a string for pickle
    length = b"X" + struct.pack("<I", 16) + b"\x00\x00\x00"
    both = length + b"{}".ljust(13) + b"0" + call(name("os", "system"), text(_touch(canaries, "both_formats"))) + b"."
    scripted = {"x/data.pkl": evil("torchscript"), "x/code/__torch__.py": b"class M(Module):\n  pass\n"}
    harmless = {"x/data.pkl": good, "x/code/__torch__.py": b"def forward(self): pass\n"}
    return [
        Evil("torch_zip", in_zip(torch_zip | {"x/data.pkl": evil("torch_zip")}), "posix.system('touch", "torch"),
        Evil("torch_before_1_6", magic + evil("torch_before_1_6") + keys, "posix.system('touch", "torch"),
        Evil("magic_number", evil("magic_number"), "posix.system('touch", "torch"),
        Evil("nested_zip", in_zip(torch_zip | {"x/data.pkl": good, "x/more.zip": inner}), "posix.system('touch"),
        Evil("in_tar", in_tar({"pickle": evil("in_tar")}), "posix.system('touch"),
        Evil("torchscript", in_zip(scripted), "posix.system('touch"),
        Evil("torchscript_alone", in_zip(harmless), "TorchScript", verdict="unknown"),
        Evil("before_a_zip", in_zip({"a.txt": b"hello"}, evil("before_a_zip")), "posix.system('touch", "pickle"),
        Evil("second_pickle", good + evil("second_pickle"), "posix.system('touch"),
        Evil("array_of_objects", in_zip({"a.npy": array + evil("array_of_objects")}), "posix.system('touch"),
        Evil("cut_off", cut_off, "os.system('touch", "pickle"),
        Evil("both_formats", both + b" " * 5000, "os.system('touch", "pickle"),
        Evil("protocol_9", whole(b"N", 9), "protocol 9", verdict="unknown"),
        Evil("broken_zip", in_zip(torch_zip | {"x/data.pkl": good})[:-30], "damaged or cut off", verdict="unknown"),
    ]


def _poisoned(canaries: Path, fixture: bytes) -> Evil:
    """A real detector with one call put before its first opcode: it loads as before, after having run."""
    with zipfile.ZipFile(io.BytesIO(fixture)) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    (main,) = [member for member in members if member.endswith("/data.pkl")]
    harm = call(name("os", "system"), text(_touch(canaries, "poisoned_detector"))) + b"0"
    members[main] = members[main][:2] + harm + members[main][2:]
    return Evil("poisoned_detector", in_zip(members), "os.system('touch")


def good_files() -> dict[str, tuple[object, str | int]]:
    """Name -> (content, how it is to be saved: "torch", "torch before 1.6", or a pickle protocol)."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Linear(2, 2))
    optimizer = torch.optim.Adam(layers.parameters())
    layers(torch.rand(1, 3, 8, 4)).sum().backward()
    optimizer.step()
    weights = {f"unet.{i}.weight": torch.randn(3, 5) for i in range(3)}
    numbers = np.random.default_rng(0)
    base = torch.arange(24.0).reshape(4, 6)
    arrays = {"mean": numbers.random(512), "ids": np.arange(7, dtype=np.int16), "big": np.arange(3, dtype=">f4")}
    plain = {"name": "läufer", "steps": [1, 2.5, -3], "nested": {"on": True, "none": None}, 7: (1, (2,))}
    odd = [float("nan"), float("inf"), -0.0, 10**30, 1 + 2j, b"bytes", {1, 2}, frozenset("ab"), slice(1, 2), ""]
    return {
        "float32": (weights, "torch"),
        "float16": ({name: tensor.half() for name, tensor in weights.items()}, "torch"),
        "bfloat16": ({name: tensor.bfloat16() for name, tensor in weights.items()}, "torch"),
        "integers": ({"a": torch.arange(5), "b": torch.ones(3, dtype=torch.uint8), "c": base > 3}, "torch"),
        "double_and_complex": ({"a": base.double(), "b": base * 1j}, "torch"),
        "before_1_6": (weights, "torch before 1.6"),
        "state_dict": (layers.state_dict(), "torch"),
        "with_settings": ({"state_dict": weights, "epoch": 3, "lr": 1e-4, "tags": ["a", None]}, "torch"),
        "optimizer": (optimizer.state_dict(), "torch"),
        "views": ({"all": base, "column": base[:, 1], "turned": base.T}, "torch"),
        "small": ({"one": torch.tensor(3.5), "none": torch.zeros(0, 4), "p": nn.Parameter(base)}, "torch"),
        "tensor_alone": (base, "torch"),
        "arrays_in_torch": ({"a": arrays["mean"], "s": np.float64(2.5), "t": base}, "torch"),
        "arrays_2": (arrays, 2),
        "arrays_4": (arrays, 4),
        "arrays_5": (arrays | {"words": np.int64(5)}, 5),
        "plain_0": (plain, 0),
        "plain_1": (collections.OrderedDict(plain), 1),
        "odd_3": (odd, 3),
        "counter_4": (collections.Counter("aab"), 4),
    }


def save(path: Path, content: object, how: str | int) -> None:
    """Write one of `good_files`."""
    import torch

    if isinstance(how, int):
        path.write_bytes(pickle.dumps(content, how))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")

"""What a model file may import, and what it has no business with. Names only: nothing here is imported.

A pickle is a program: it imports names and calls them. Weights need a few dozen of them, which stand here one by one;
whatever else a file asks for makes it `unknown`, and what can start programs, read or write files, or reach further
names makes it `dangerous`. Both lists are data, so that scanning and loading judge by the same one.
"""

from __future__ import annotations

import sys
from _compat_pickle import IMPORT_MAPPING  # what pickle itself renames by
from enum import IntEnum


class Safety(IntEnum):
    """How far a file can be trusted; the worst one counts."""

    SAFE = 0
    UNKNOWN = 1
    DANGEROUS = 2


class Use(IntEnum):
    """What a pickle may do with a name on the allow-list."""

    VALUE = 0  # hand it on: a dtype, a storage type
    CALL = 1  # call it: builds plain data
    LAYER = 2  # make an empty instance and give it attributes, as pickle does for networks; never call it


def words(*lines: str) -> frozenset[str]:
    """The words of `lines`."""
    return frozenset(word for line in lines for word in line.split())


def _names(module: str, names: str) -> list[str]:
    return [f"{module}.{name}" for name in names.split()]


# What torch.save and numpy write for tensors and arrays; pickle writes the old names of modules up to protocol 2.
_VALUES = [
    *_names("torch", "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128"),
    *_names("torch", "uint16 uint32 uint64 float8_e4m3fn float8_e5m2 strided"),
    *_names("torch", "DoubleStorage FloatStorage HalfStorage BFloat16Storage LongStorage IntStorage ShortStorage"),
    *_names("torch", "CharStorage ByteStorage BoolStorage ComplexFloatStorage ComplexDoubleStorage"),
    *_names("torch.storage", "UntypedStorage"),
    *_names("numpy", "ndarray"),
    *_names("builtins", "object"),
]
_CALLS = [
    *_names("collections", "OrderedDict Counter"),
    *_names("builtins", "set frozenset bytearray complex slice"),
    *_names("_codecs", "encode"),
    *_names("torch", "Size device"),
    *_names("torch._utils", "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter"),
    *_names("torch.nn.parameter", "Parameter"),
    *_names("torch.serialization", "_get_layout"),
    *_names("numpy", "dtype"),
    *_names("numpy.core.multiarray", "_reconstruct scalar"),
    *_names("numpy._core.multiarray", "_reconstruct scalar"),
    *_names("numpy.core.numeric", "_frombuffer"),
    *_names("numpy._core.numeric", "_frombuffer"),
    # settings beside the weights in Ultralytics checkpoints
    *_names("pathlib", "Path PosixPath WindowsPath PurePosixPath PureWindowsPath"),
    *_names("pathlib._local", "PosixPath WindowsPath"),
    *_names("ultralytics.utils", "IterableSimpleNamespace"),
    *_names("ultralytics.yolo.utils", "IterableSimpleNamespace"),
    *_names("types", "SimpleNamespace"),
]

TORCH_LAYERS = {
    "activation": "CELU ELU GELU GLU Hardsigmoid Hardswish Hardtanh LeakyReLU LogSoftmax Mish MultiheadAttention PReLU "
    "ReLU ReLU6 SELU SiLU Sigmoid Softmax Softplus Tanh",
    "batchnorm": "BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm",
    "container": "ModuleDict ModuleList ParameterDict ParameterList Sequential",
    "conv": "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d",
    "dropout": "Dropout Dropout1d Dropout2d Dropout3d",
    "flatten": "Flatten Unflatten",
    "instancenorm": "InstanceNorm1d InstanceNorm2d InstanceNorm3d",
    "linear": "Bilinear Identity Linear NonDynamicallyQuantizableLinear",
    "loss": "BCELoss BCEWithLogitsLoss CrossEntropyLoss L1Loss MSELoss SmoothL1Loss",
    "normalization": "GroupNorm LayerNorm LocalResponseNorm RMSNorm",
    "padding": "ConstantPad1d ConstantPad2d ReflectionPad1d ReflectionPad2d ReplicationPad2d ZeroPad2d",
    "pixelshuffle": "PixelShuffle PixelUnshuffle",
    "pooling": "AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool1d AdaptiveMaxPool2d AvgPool1d AvgPool2d MaxPool1d "
    "MaxPool2d",
    "rnn": "GRU GRUCell LSTM LSTMCell RNN RNNCell",
    "sparse": "Embedding EmbeddingBag",
    "transformer": "Transformer TransformerDecoder TransformerDecoderLayer TransformerEncoder TransformerEncoderLayer",
    "upsampling": "Upsample UpsamplingBilinear2d UpsamplingNearest2d",
}
# ultralytics 8.4, less TorchVision, which fetches weights from the network when it is made.
ULTRALYTICS_LAYERS = {
    "activation": "AGLU",
    "block": "A2C2f AAttn ABlock AConv ADown Attention BNContrastiveHead Bottleneck BottleneckCSP C1 C2 C2PSA C2f "
    "C2fAttn C2fCIB C2fPSA C3 C3Ghost C3TR C3f C3k C3k2 C3x CBFuse CBLinear CIB ContrastiveHead DFL ELAN1 "
    "GhostBottleneck HGBlock HGStem ImagePoolingAttn MaxSigmoidAttnBlock PSA PSABlock Proto Proto26 RealNVP "
    "RepBottleneck RepC3 RepCSP RepNCSPELAN4 RepVGGDW ResNetBlock ResNetLayer Residual SAVPE SCDown SPP SPPELAN SPPF "
    "Silence SwiGLUFFN",
    "conv": "CBAM ChannelAttention Concat Conv Conv2 ConvTranspose DWConv DWConvTranspose2d Focus GhostConv Index "
    "LightConv RepConv SpatialAttention",
    "head": "Classify Detect LRPCHead OBB OBB26 Pose Pose26 RTDETRDecoder Segment Segment26 WorldDetect YOLOEDetect "
    "YOLOESegment YOLOESegment26 v10Detect",
    "transformer": "AIFI DeformableTransformerDecoder DeformableTransformerDecoderLayer LayerNorm2d MLP MLPBlock "
    "MSDeformAttn TransformerBlock TransformerEncoderLayer TransformerLayer",
}
ULTRALYTICS_MODELS = (
    "ClassificationModel DetectionModel Ensemble OBBModel PoseModel RTDETRDetectionModel SegmentationModel WorldModel "
    "YOLOEModel YOLOESegModel YOLOv10DetectionModel"
)
_LOSSES = (
    "BboxLoss DFLoss E2EDetectLoss E2ELoss KeypointLoss PoseLoss26 RLELoss v10DetectLoss v8DetectionLoss v8PoseLoss"
)
# deepcam-cn/yolov5-face, models/common.py
FACE_LAYERS = "Bottleneck C3 Concat Conv ShuffleV2Block SPP StemBlock"

_LAYERS = [
    *(name for module, names in TORCH_LAYERS.items() for name in _names(f"torch.nn.modules.{module}", names)),
    *(
        name
        for module, names in ULTRALYTICS_LAYERS.items()
        for package in (f"ultralytics.nn.modules.{module}", "ultralytics.nn.modules")  # one file up to 8.0.100
        for name in _names(package, names)
    ),
    *_names("ultralytics.nn.tasks", ULTRALYTICS_MODELS),
    *_names("ultralytics.utils.loss", _LOSSES),
    *_names("ultralytics.yolo.utils.loss", _LOSSES),
    *_names("ultralytics.utils.tal", "TaskAlignedAssigner PoseTaskAlignedAssigner"),
    *_names("ultralytics.yolo.utils.tal", "TaskAlignedAssigner"),
    *_names("models.common", FACE_LAYERS),
    *_names("models.yolo", "Detect Model"),
]

ALLOWED: dict[str, Use] = {
    **dict.fromkeys(_VALUES, Use.VALUE),
    **dict.fromkeys(_CALLS, Use.CALL),
    **dict.fromkeys(_LAYERS, Use.LAYER),
}

# Pose checkpoints of Ultralytics 8.0 hold `getattr(Detect, "forward")`: a network's own method, nothing else.
GETATTR = "builtins.getattr"
METHODS = ("forward", "forward_fuse")

# How a tensor is written by `pickle.dump` instead of torch.save: a call with the bytes of a whole PyTorch file, which
# this function unpickles without any check. Those bytes stand in the pickle and are looked into; whatever else becomes
# of the function is dangerous.
LOAD_BYTES = "torch.storage._load_from_bytes"

# Packages beside Python's own whose business is running, loading or fetching things.
_DANGEROUS_PACKAGES = words(
    "IPython __main__ aiohttp cffi cloudpickle commands dill distutils execnet fabric fsspec gradio huggingface_hub",
    "httpx ipykernel joblib jsonpickle keras matplotlib multiprocess nltk nt numba pandas paramiko pexpect pip",
    "pkg_resources posix psutil py pytest requests ruamel setuptools sh sqlalchemy tensorflow torch_xla urllib2",
    "urllib3 wheel win32api yaml",
)
# Parts of torch, numpy and torchvision that run, load, compile or fetch.
_DANGEROUS_PARTS = (
    *_names("torch", "hub jit load save package distributed multiprocessing utils _dynamo _inductor fx ops classes"),
    *_names("torch", "_C compile testing onnx export library serialization.load serialization.save storage._load"),
    *_names("numpy", "load save savez loadtxt genfromtxt fromfile memmap testing f2py ctypeslib distutils lib"),
    *_names("numpy", "fromregex DataSource apply_along_axis apply_over_axes frompyfunc fromfunction vectorize"),
    *_names("torchvision", "models datasets io"),
    *_names("ultralytics", "YOLO hub cfg engine data utils.checks utils.downloads nn.tasks.torch_safe_load"),
    *_names("ultralytics", "nn.tasks.load_checkpoint nn.modules.block.TorchVision nn.autobackend"),
)
# Wherever one of these stands in a dotted path, it leads out of the package: torch.os.system, numpy.ctypeslib.os ...
_WAY_OUT = words(
    "os posix nt sys subprocess builtins __builtins__ importlib shutil socket ctypes pickle _pickle runpy pty code",
    "inspect eval exec execfile compile system popen open __import__ getattr setattr delattr globals locals vars",
    "__globals__ __getattribute__ __subclasses__ __class__ __base__ __bases__ __mro__ __dict__ __code__ __reduce__",
    "__reduce_ex__ __loader__ __spec__ __init__ __call__ __func__ __self__",
)
# Of Python's own library, but data and nothing else: not needed for weights, so unknown; no reason for alarm.
_PLAIN_DATA = {
    *_names("argparse", "Namespace"),
    *_names("builtins", "bool bytes dict float int list range str tuple"),
    *_names("collections", "defaultdict deque"),
    *_names("copyreg", "_reconstructor"),
    *_names("datetime", "date datetime time timedelta timezone"),
    *_names("decimal", "Decimal"),
    *_names("fractions", "Fraction"),
    *_names("uuid", "UUID"),
}


def modern(module: str) -> str:
    """`module` under its name in Python 3: protocols 0 to 2 write those of Python 2, such as __builtin__."""
    return IMPORT_MAPPING.get(module, module)


def judge(full_name: str) -> Safety:
    """How far importing `module.name` can be trusted; `module` as `modern` gives it."""
    if full_name in ALLOWED:
        return Safety.SAFE
    if full_name in _PLAIN_DATA:
        return Safety.UNKNOWN
    parts = full_name.split(".")
    leads_out = any(part in _WAY_OUT for part in parts)
    # a model file needs nothing of Python's own library but what is allowed above
    of_python = parts[0] in sys.stdlib_module_names or parts[0] in _DANGEROUS_PACKAGES
    runs_things = any(full_name == part or full_name.startswith(f"{part}.") for part in _DANGEROUS_PARTS)
    return Safety.DANGEROUS if leads_out or of_python or runs_things else Safety.UNKNOWN

"""neural-compressor 3.7.1 on today's packages: import it from here.

    from helpers.compat import neural_compressor

3.7.1 is the last release that quantizes ONNX files and that trains under callbacks. It was written
for the packages of its time, and two of the things it imports are gone. Each is put back here in
terms of what took its place, before neural-compressor is imported:

- `onnx.mapping`, removed in onnx 1.19: two tables between the element types of NumPy and ONNX,
  built from `onnx.helper`;
- `pkg_resources`, removed in setuptools 82: neural-compressor compares versions with its
  `parse_version`, which `packaging` has under another name.

It also declares numpy < 2, opencv and pycocotools, and needs none of them for what we call;
`[tool.uv]` in pyproject.toml overrides that in the lock.
"""

import importlib.util
import sys
import types
import warnings

import onnx
import torch  # noqa: F401  neural-compressor imports parts of it first, which fails
from packaging.version import parse


def _stand_ins() -> dict[str, types.ModuleType]:
    """What neural-compressor imports and is not installed, by name."""
    pkg_resources, cv2 = types.ModuleType("pkg_resources"), types.ModuleType("cv2")
    pkg_resources.parse_version = parse
    cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA = range(4)
    pycocotools = types.ModuleType("pycocotools")
    pycocotools.coco, pycocotools.mask = types.SimpleNamespace(COCO=object), None
    pycocotools.cocoeval = types.SimpleNamespace(COCOeval=object, Params=object)
    modules = {"pkg_resources": pkg_resources, "cv2": cv2, "pycocotools": pycocotools}
    return {name: m for name, m in modules.items() if importlib.util.find_spec(name) is None}


numbers = onnx.helper.get_all_tensor_dtypes()
to_numpy = {number: onnx.helper.tensor_dtype_to_np_dtype(number) for number in numbers}
onnx.mapping = types.SimpleNamespace(
    TENSOR_TYPE_TO_NP_TYPE=to_numpy,
    NP_TYPE_TO_TENSOR_TYPE={kind: number for number, kind in to_numpy.items()},
)
sys.modules.update(absent := _stand_ins())
with warnings.catch_warnings(action="ignore"):  # where setuptools has pkg_resources, it warns
    import neural_compressor
    import neural_compressor.config
    import neural_compressor.quantization
    import neural_compressor.training
for name in absent:  # nobody else is to find them
    del sys.modules[name]

__all__ = ["neural_compressor"]

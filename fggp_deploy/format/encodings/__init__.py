"""The encodings of sparse weights, one class per file.

ENCODINGS lists those of packed ONNX files. If two store a weight in equally many bytes, the first
is used. `csr` and `coo` belong to file formats of their own.
"""

from fggp_deploy.format.encodings.base import PackedEncoding
from fggp_deploy.format.encodings.bitmask import Bitmask
from fggp_deploy.format.encodings.blocks import Blocks
from fggp_deploy.format.encodings.gaps import Gaps
from fggp_deploy.format.encodings.rice import Rice, RiceInt8

ENCODINGS: list[type[PackedEncoding]] = [Bitmask, Gaps, Blocks, Rice, RiceInt8]


def of_kernel_format(form: int) -> type[PackedEncoding] | None:
    """The encoding that has this number in kernel programs; None for dense weights."""
    return next((e for e in ENCODINGS if e.kernel_format == form), None)

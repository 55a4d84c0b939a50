"""Which tensors a file holds, and where: the door to the formats of `skyhold.codec.formats`."""

from __future__ import annotations

from skyhold.codec.formats.tensor import (
    FORTRAN,
    Malformed,
    Read,
    Tensor,
    element_width_bytes,
    tensor_size_bytes,
)

__all__ = ["FORTRAN", "Malformed", "Tensor", "element_width_bytes", "read_tensors", "tensor_size_bytes"]

_HEAD_BYTES = 16


def read_tensors(path: str, size_bytes: int, read: Read) -> tuple[Tensor, ...] | None:
    """The tensors of a file, sorted by `start`, without overlap and inside the file.

    `read(start, length)` returns bytes of the file; only headers are read, each within its format's limit. None where
    the format is unknown or the header malformed: such a file is stored as bytes. The format is detected by content;
    only ONNX, which has no magic number, by the name ending in `.onnx`. Errors of `read` pass through.
    """
    from skyhold.codec.formats import gguf, numpy, onnx, safetensors  # readers of `Tensor` need none of them

    head = read(0, min(_HEAD_BYTES, size_bytes))
    try:
        if safetensors.matches(head):
            return safetensors.read_tensors(size_bytes, read)
        if gguf.matches(head):
            return gguf.read_tensors(size_bytes, read)
        if numpy.matches(head):
            return numpy.read_tensors(size_bytes, read)
        if path.endswith(".onnx"):
            return onnx.read_tensors(size_bytes, read)
    except Malformed:
        pass
    return None

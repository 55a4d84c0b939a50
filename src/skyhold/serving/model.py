"""A model that is ready to answer: found, loaded and warmed up from a folder of verified files."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from skyhold import error_codes
from skyhold.errors import InvalidInput, SkyholdError
from skyhold.serving.batcher import Batcher, Outputs
from skyhold.serving.declaration import Declaration, read_declaration
from skyhold.serving.rest_codec import decode_request
from skyhold.serving.runtimes.find import find_runtime, load_model
from skyhold.serving.runtimes.runtime import Found, LoadedModel, Permissions
from skyhold.serving.signature import Signature, TensorSpec
from skyhold.serving.tensor import Array, numpy_dtype

WARM_UP_BYTES_MAX: Final = 64 << 20
_log = logging.getLogger("skyhold.serving")


@dataclass(frozen=True, slots=True)
class Origin:
    """The name under which a model is served, and its version, for answers and logs."""

    name: str
    version: str


class Model:
    """A loaded, warm model. `predict` may be called by any thread."""

    def __init__(
        self,
        origin: Origin,
        found: Found,
        declaration: Declaration,
        loaded: LoadedModel,
        observe: Callable[[int, float], None],
    ) -> None:
        self.origin = origin
        self.runtime = found.runtime.name
        self.why = f"{found.path.name}: {found.why}"
        self.signature: Signature = loaded.signature
        self._batcher = Batcher(loaded, declaration.batch, observe=observe)

    def submit(self, inputs: Mapping[str, Array], outputs: list[str] | None, *, timeout_s: float) -> Future[Outputs]:
        """The outputs for these inputs, which are checked against the signature first. Raises `InvalidInput`, and what
        `Batcher.submit` raises."""
        checked = self.signature.checked_inputs(inputs)
        return self._batcher.submit(
            checked, self.signature.checked_outputs(outputs), give_up_s=time.monotonic() + timeout_s
        )

    def close(self) -> None:
        """Answer what waits, and free the model."""
        self._batcher.close()


def open_model(
    folder: Path,
    origin: Origin,
    permissions: Permissions,
    observe: Callable[[int, float], None] = lambda _rows, _seconds: None,
) -> Model:
    """Find, load and warm up the model in this folder. Raises `SkyholdError`; then nothing is left loaded."""
    declaration = read_declaration(folder)
    found = find_runtime(folder, declaration)
    began_s = time.perf_counter()
    loaded = load_model(found, declaration, permissions)
    try:
        _warm_up(folder, declaration, loaded)
    except BaseException:
        loaded.close()
        raise
    _log.info("loaded %s %s by %s in %.2f s", origin.name, origin.version, found.runtime.name,
              time.perf_counter() - began_s)  # fmt: skip
    return Model(origin, found, declaration, loaded, observe)


def _warm_up(folder: Path, declaration: Declaration, loaded: LoadedModel) -> None:
    """Run a request: the one that the version declares, which must succeed, else zeros, which need not."""
    signature = loaded.signature
    outputs = signature.checked_outputs(None)
    if declaration.warm_up is None:
        zeros = {spec.name: _zeros(spec) for spec in signature.inputs}
        try:
            loaded.predict(zeros, outputs)
        except Exception as error:  # noqa: BLE001 (zeros may be no input that the model takes)
            _log.info("the model takes no zeros: %s", error)
        return
    path = folder / declaration.warm_up
    if path.stat().st_size > WARM_UP_BYTES_MAX:
        raise InvalidInput(
            f"The warm-up request {path.name} is longer than {WARM_UP_BYTES_MAX} bytes", code=error_codes.LOAD_FAILED
        )
    try:
        request = decode_request(path.read_bytes())
        inputs = signature.checked_inputs({tensor.name: tensor.array for tensor in request.inputs})
        loaded.predict(inputs, signature.checked_outputs(list(request.outputs)))
    except SkyholdError as error:
        raise InvalidInput(
            f"The warm-up request {path.name} does not fit the model: {error.message}", code=error_codes.LOAD_FAILED
        ) from error
    except Exception as error:
        raise InvalidInput(
            f"The model failed at its warm-up request {path.name}: {type(error).__name__}: {error}"[:2000],
            code=error_codes.LOAD_FAILED,
        ) from error


def _zeros(spec: TensorSpec) -> Array:
    shape = tuple(max(size, 1) for size in spec.shape)
    if spec.datatype == "BYTES":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, numpy_dtype(spec.datatype, spec.name))

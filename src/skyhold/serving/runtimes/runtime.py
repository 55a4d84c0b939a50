"""The port of a runtime.

A runtime is one module with a `Runtime`: it recognizes its files without importing its library, and loads them. Of a
loaded model the server needs three things: its signature, `predict`, and `close`. A runtime that runs another program
(vLLM, Triton) fits as well: `load` starts it, `predict` calls it, `close` ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from skyhold.serving.declaration import Declaration
from skyhold.serving.signature import Signature
from skyhold.serving.tensor import Array


@dataclass(frozen=True, slots=True)
class Permissions:
    """What the operator allows of a version beside reading weights."""

    pickle: bool = False
    code: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """Files that a runtime can load, and why it is taken for its own."""

    runtime: Runtime
    path: Path
    why: str


class LoadedModel(Protocol):
    signature: Signature

    def predict(self, inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
        """The outputs of these names for inputs that fit the signature. Called by one thread at a time. Any exception
        is a failure of the model."""
        ...

    def close(self) -> None: ...


class Runtime(Protocol):
    name: str
    extra: str
    """The extra of Skyhold that installs what it needs, as in `pip install 'skyhold[onnx]'`."""

    def find(self, path: Path) -> str | None:
        """Why this file is one for this runtime, or None where it is not. Reads at most its first bytes."""
        ...

    def load(self, path: Path, declaration: Declaration, permissions: Permissions) -> LoadedModel:
        """Load a file that `find` took. Raises `ImportError` where the library is missing, `PermissionDenied`, or
        anything that the library raises."""
        ...

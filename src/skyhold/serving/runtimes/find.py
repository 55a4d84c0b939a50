"""Which runtime serves the files of a version."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from skyhold import error_codes
from skyhold.errors import InvalidInput, NotFound, SkyholdError
from skyhold.serving.declaration import FILE_NAME, Declaration
from skyhold.serving.runtimes import onnx, sklearn
from skyhold.serving.runtimes.runtime import Found, LoadedModel, Permissions, Runtime

RUNTIMES: Final[dict[str, Runtime]] = {runtime.name: runtime for runtime in (onnx, sklearn)}


def find_runtime(folder: Path, declaration: Declaration) -> Found:
    """The file that is loaded, and by which runtime. Raises `NotFound` or `InvalidInput`."""
    runtimes = list(RUNTIMES.values())
    if declaration.runtime is not None:
        if declaration.runtime not in RUNTIMES:
            raise InvalidInput(
                f"The version declares the runtime {declaration.runtime!r}, which is not known",
                code=error_codes.NO_RUNTIME,
                hint=f"The runtimes are {', '.join(RUNTIMES)}",
            )
        runtimes = [RUNTIMES[declaration.runtime]]
    files = [folder / declaration.file] if declaration.file else sorted(folder.rglob("*"))
    found = [
        Found(runtime, path, why)
        for path in files
        if path.is_file()
        for runtime in runtimes
        if (why := runtime.find(path)) is not None
    ]
    if not found:
        raise NotFound(
            f"No runtime is for the files of the version: {_names(folder, files)}",
            code=error_codes.NO_RUNTIME,
            hint=f"The runtimes are {', '.join(RUNTIMES)}; docs/how-to/serve.md lists their files",
        )
    if len(found) > 1:
        raise InvalidInput(
            "Several files of the version can be served: "
            + ", ".join(f"{one.path.relative_to(folder)} ({one.runtime.name})" for one in found[:10]),
            code=error_codes.RUNTIME_AMBIGUOUS,
            hint=f'Name one in its {FILE_NAME}: file = "{found[0].path.relative_to(folder)}"',
        )
    return found[0]


def load_model(found: Found, declaration: Declaration, permissions: Permissions) -> LoadedModel:
    """Raises `SkyholdError`: `PermissionDenied`, or `InvalidInput` where a library is missing or refuses the file."""
    try:
        return found.runtime.load(found.path, declaration, permissions)
    except SkyholdError:
        raise
    except ImportError as error:
        raise InvalidInput(
            f"The runtime {found.runtime.name} needs {error.name or error}, which is not installed",
            code=error_codes.RUNTIME_MISSING,
            hint=f"pip install 'skyhold[serve,{found.runtime.extra}]'",
        ) from error
    except Exception as error:  # whatever a library raises of a file
        raise InvalidInput(
            f"The runtime {found.runtime.name} cannot load {found.path.name}: {type(error).__name__}: {error}"[:2000],
            code=error_codes.LOAD_FAILED,
        ) from error


def _names(folder: Path, files: list[Path]) -> str:
    names = [str(path.relative_to(folder)) for path in files if path.is_file()]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")

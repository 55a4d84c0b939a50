"""`obstore` for this process, also after `fork`.

The threads of obstore's runtime do not exist in a forked child, and the runtime is one static of its extension module:
there, every call waits for ever, also on a new store object (measured with 0.12.1; obstore#441). A second copy of
the module's file is a second library to the loader, with a runtime of its own, and takes 10 ms. So a child loads a copy
and leaves the parent's objects alone: even to free one would touch the dead runtime.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.machinery
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import obstore
import obstore.store

_EXTENSION: Final = "obstore._obstore"
_lock = threading.Lock()
_process: int = os.getpid()
_module: ModuleType = obstore
_abandoned: list[object] = []


def obstore_here() -> ModuleType:
    """The `obstore` package whose runtime lives in this process, with `store` and `exceptions` loaded."""
    global _process, _module  # noqa: PLW0603 - one library per process is the matter of this module
    if _process == os.getpid():
        return _module
    with _lock:
        if _process != os.getpid():
            _module = _fresh_copy()
            _process = os.getpid()
    return _module


def abandon(stores: object) -> None:
    """Keep the parent's store objects alive, unused, for the life of this child."""
    _abandoned.append(stores)


def next_within(stream: Any, limit_s: float) -> Any:
    """The next part of one of obstore's streams, or None at its end. Raises `TimeoutError` after `limit_s`, and the
    stream makes no more requests: only an awaited call of obstore can be given up. It is awaited in a thread of its
    own, for the caller's may run a loop already, and a loop that is kept would not survive `fork`."""
    done: Future[Any] = Future()

    async def part() -> Any:
        return await asyncio.wait_for(anext(stream, None), limit_s)

    def wait() -> None:
        try:
            done.set_result(asyncio.run(part()))
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            done.set_exception(error)

    threading.Thread(target=wait, name="listing", daemon=True).start()
    return done.result()


def _fresh_copy() -> ModuleType:
    names = [name for name in sys.modules if name == "obstore" or name.startswith("obstore.")]
    inherited = {name: sys.modules.pop(name) for name in names}
    abandon(inherited)
    original = str(inherited[_EXTENSION].__file__)
    with tempfile.TemporaryDirectory(prefix="skyhold-") as folder:
        copy = Path(folder) / Path(original).name
        shutil.copyfile(original, copy)
        loader = importlib.machinery.ExtensionFileLoader(_EXTENSION, str(copy))
        extension = importlib.util.module_from_spec(
            importlib.machinery.ModuleSpec(_EXTENSION, loader, origin=str(copy))
        )
        sys.modules[_EXTENSION] = extension
        loader.exec_module(extension)
        importlib.import_module("obstore.store")
        return importlib.import_module("obstore")


def _forget_lock() -> None:
    global _lock  # noqa: PLW0603 - a thread of the parent may have held it
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_lock)

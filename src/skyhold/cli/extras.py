"""Commands that need an extra of Skyhold."""

from __future__ import annotations

from importlib.util import find_spec

from skyhold import error_codes
from skyhold.errors import InvalidInput


def need_serving(*modules: str) -> None:
    """Raises `InvalidInput` with what to install, where msgspec or one of the `modules` of the extra is missing."""
    missing = [module for module in ("msgspec", "prometheus_client", *modules) if find_spec(module) is None]
    if missing:
        raise InvalidInput(
            f"This command needs {', '.join(missing)}, which is not installed",
            code=error_codes.RUNTIME_MISSING,
            hint="pip install 'skyhold[serve]'",
        )

"""Events as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from skyhold.cli.render import SHORT_ID_CHARACTERS

Part = Mapping[str, object]


def sentence(part: Part) -> str:
    """One part of an event. A kind that this program does not know is shown by its name."""
    kind = str(part.get("kind"))
    describe = _SENTENCES.get(kind)
    return kind if describe is None else describe(part)


def _short(value: object) -> str:
    return "nothing" if value is None else str(value)[:SHORT_ID_CHARACTERS]


def _ref(part: Part) -> str:
    ref, old, new = part.get("ref"), part.get("old"), part.get("new")
    if old is None:
        return f"{ref} at {_short(new)}"
    return f"{ref} deleted, was at {_short(old)}" if new is None else f"{ref} from {_short(old)} to {_short(new)}"


def _record(part: Part) -> str:
    record = part.get("record")
    if "new" in part:
        return f"{record} from {_short(part.get('old'))} to {_short(part['new'])}"
    return f"{record} {'deleted' if part.get('sha256') is None else 'set'}"


def _name(part: Part) -> str:
    id_ = part.get("repository") or part.get("document") or part.get("deployment")
    return f"name {part.get('name')} {'freed' if id_ is None else f'given to {_short(id_)}'}"


def _bucket(part: Part) -> str:
    if part.get("removed"):
        return f"bucket {part.get('bucket')} removed"
    return f"bucket {part.get('bucket')} ({part.get('role')}) at {part.get('url')}"


def _features(part: Part) -> str:
    read, write = part.get("read"), part.get("write")
    words = [f"{what} {', '.join(map(str, names))}" for what, names in (("read", read), ("write", write))
             if isinstance(names, list) and names]  # fmt: skip
    return f"features to {' and to '.join(words)}" if words else "no features"


_SENTENCES: Final[dict[str, Callable[[Part], str]]] = {
    "created": lambda _part: "created",
    "deleted": lambda part: f"deleted {_short(part['id'])}" if "id" in part else "deleted",
    "undeleted": lambda part: f"brought back {_short(part['id'])}" if "id" in part else "brought back",
    "renamed": lambda part: f"renamed from {part.get('old')} to {part.get('new')}",
    "ref": _ref,
    "version": lambda part: f"version {_short(part.get('version'))}",
    "attached": lambda part: f"{part.get('count')} attached to {_short(part.get('version'))}",
    "record": _record,
    "policy": lambda _part: "policy",
    "gc_epoch": lambda part: f"gc epoch {part.get('epoch')}",
    "gc": lambda part: f"gc epoch {part.get('epoch')}",
    "name": _name,
    "register": lambda part: f"register {part.get('register')} listed",
    "epoch": lambda part: f"epoch {part.get('term')} of engine {part.get('engine')}",
    "bucket": _bucket,
    "features": _features,
}

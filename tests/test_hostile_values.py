"""Values that no caller should give, to every public method: what leaves is a `SkyholdError`, and
nothing has been changed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

import skyhold
from skyhold.errors import SkyholdError
from skyhold.registry.push_request import PushFields
from skyhold.registry.store import Store
from tests.cli.models import write_model
from tests.endtoend.machines import Scene

REPOSITORY: Final = "fraud/scorer"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def without_end() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


VALUES: Final[list[Callable[[], Any]]] = [
    lambda: None, lambda: True, lambda: -1, lambda: 10**400, lambda: 10**9000, lambda: float("nan"),
    lambda: float("inf"), lambda: "", lambda: "x", lambda: "\ud800", lambda: "a\0b", lambda: "../../etc/passwd",
    lambda: "x" * 100_000, lambda: b"bytes", lambda: b"", lambda: [], lambda: [None], lambda: ["\ud800"], lambda: {},
    lambda: {"a": None}, lambda: {"\ud800": 1}, lambda: {1: 2}, lambda: {"a": 10**9000}, lambda: {"a": without_end()},
    without_end, object, Unprintable, lambda: np.float32("nan"),
    lambda: np.array([1, 2]), lambda: np.datetime64("NaT"), lambda: np.str_("x"), Path, lambda: Path("\0"),
    lambda: (item for item in "ab"), lambda: int, lambda: 1j, lambda: "@", lambda: "~99999999", lambda: "main~-1",
    lambda: "fraud/scorer@main~9999999", lambda: "%00", lambda: "http://[", lambda: "s3://[::1", lambda: "etcd://[::1",
    lambda: "file://\ud800", lambda: "s3://b?region=\ud800", lambda: "x:y://", lambda: "az://", lambda: "gs://",
]  # fmt: skip
SKIPPED: Final = {
    "progress",  # a program's own object, which is called
    "settings",  # made by `load_settings`, typed
    "policy",  # a `Policy`, which checks itself: see `test_policy_refuses`
    "other",  # a `Repository`
}
FLAGS: Final = {
    "dry_run",
    "force",
    "deep",
    "tensors",
    "create",
    "deleted",
    "first_parent",
    "without_optimizer",
    "allow_unsafe_names",
}
"""Of which only the truth counts."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = Scene(tmp_path_factory.mktemp("hostile") / "scene")
    made.place.mkdir()
    with made.machine.at_work():
        yield made


@pytest.fixture(scope="module")
def store(scene: Scene) -> Iterator[Store]:
    with skyhold.init(scene.clouds()) as made:
        model = write_model(scene.place / "model", rows=16)
        made.repository(REPOSITORY, create=True).push(model, message="One", aliases=["champion"], tags=["v1"])
        yield made


GOOD: Final[dict[str, Any]] = {
    "source": "model", "path": "README.md", "reference": "main",
    "destination": "out", "changes": {"alias/live": "main"}, "ref": "champion",
    "a": "main", "b": "main", "name": REPOSITORY, "new_name": "fraud/other", "query": "fraud", "url": "new",
    "roles": {}, "engine": "buckets", "policy": skyhold.Policy(),
}  # fmt: skip
METHODS: Final = {
    "repository": [
        "push", "pull", "show", "log", "set_refs", "set_policy", "history", "events", "rollback", "attach", "diff",
        "files", "tensors", "open", "read_tensor", "summarize_tensor",
    ],
    "store": [
        "create_repository", "repository", "rename_repository", "delete_repository", "undelete_repository", "search",
        "repositories", "add_bucket", "remove_bucket", "set_roles", "replace_voter", "move_engine", "check_bucket",
        "verify", "events",
    ],
}  # fmt: skip


def parameters_of(method: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a method by name; of `push` also its keywords, which are typed in one place."""
    found = dict(inspect.signature(method).parameters)
    if found.pop("described", None) is not None:
        kind = inspect.Parameter.KEYWORD_ONLY
        found |= {name: inspect.Parameter(name, kind, default=None) for name in PushFields.__annotations__}
    return found


def parameters() -> Iterator[tuple[str, str, str]]:
    for owner, methods in METHODS.items():
        for method in methods:
            found = parameters_of(getattr(skyhold.Repository if owner == "repository" else Store, method))
            for name in list(found)[1:]:
                if name not in SKIPPED | FLAGS:
                    yield owner, method, name


@pytest.mark.parametrize(("owner", "method", "name"), list(parameters()))
def test_public_method_refuses_hostile_values_by_errors_of_its_own(
    scene: Scene, store: Store, monkeypatch: pytest.MonkeyPatch, owner: str, method: str, name: str
) -> None:
    monkeypatch.chdir(scene.place)
    target: Any = store.repository(REPOSITORY) if owner == "repository" else store
    found = parameters_of(getattr(target, method))
    for number, make in enumerate(VALUES):
        given = {
            other: GOOD[other]
            for other, parameter in found.items()
            if other in GOOD and parameter.default is inspect.Parameter.empty and other != name
        }
        if name in {"author", "reason"} and "name" in given:
            given["name"] = "fraud/absent"  # any text is right, and what it is of must stay
        positional: list[Any] = []
        if found[name].kind is inspect.Parameter.VAR_POSITIONAL:
            positional, given = [REPOSITORY, make()], {}
        elif found[name].kind is inspect.Parameter.VAR_KEYWORD:
            given["region"] = make()
        else:
            given[name] = make()
        if "dry_run" in found:
            given["dry_run"] = True
        try:
            getattr(target, method)(*positional, **given)
        except SkyholdError as error:
            assert error.code not in {"defect", "error"}
            assert len(error.message) < 2000, f"value {number}"
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            pytest.fail(f"{owner}.{method}({name}=<value {number}>) raised {type(error).__name__}: {error}")
    assert REPOSITORY in store.repository_names()
    store.repository(REPOSITORY).show("champion")


@pytest.mark.parametrize("call", [skyhold.init, skyhold.open, skyhold.connect, skyhold.recover])
def test_way_to_a_store_refuses_hostile_values(
    call: Callable[..., Any], scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, make in enumerate(VALUES):
        for wrapped in (False, True):
            value = make()
            try:
                made = call([value] if wrapped else value)
            except SkyholdError as error:
                assert error.code not in {"defect", "error"}
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                pytest.fail(f"{call.__name__}(<value {number}>) raised {type(error).__name__}: {error}")
            else:
                (made[0] if isinstance(made, tuple) else made).close()

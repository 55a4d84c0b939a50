"""What methods return: public frozen dataclasses with one JSON form."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import enum
import inspect
import json
from pathlib import Path

import pytest

import skyhold
from skyhold import results
from skyhold.buckets.location import parse_location
from skyhold.json_form import as_json
from skyhold.registry import lifecycle
from skyhold.registry.reader import RepositoryReader
from skyhold.registry.repository import Repository
from skyhold.registry.store import Store
from skyhold.registry.views import LogEntry, PullPlan
from skyhold.storage.policy import Policy
from skyhold.storage.pull_plan import PullSources

TYPES = [getattr(results, name) for name in results.__all__ if name[0].isupper()]
OTHERS = {
    *skyhold.__all__, *dir(builtins), "Configuration", "Iterator", "Literal", "Mapping", "Self", "Snapshot", "T",
    "VersionPlace",
}  # fmt: skip
"""Names in return types that are no results: what a method takes as well as returns, and what Python has."""


def returned() -> set[str]:
    """Every name in the return type of a public function or method."""
    found: set[str] = set()
    for module in (lifecycle, *map(inspect.getmodule, (Store, Repository, RepositoryReader))):
        assert module is not None
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.FunctionDef) and node.returns is not None and not node.name.startswith("_"):
                found |= {item.id for item in ast.walk(node.returns) if isinstance(item, ast.Name)}
    return found


def test_everything_that_a_public_method_returns_is_public() -> None:
    assert returned() - OTHERS - set(results.__all__) == set()


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_result_is_a_frozen_dataclass_with_a_docstring(kind: type) -> None:
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(")


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_only_what_has_a_stored_form_writes_its_json_itself(kind: type) -> None:
    assert hasattr(kind, "to_json") == (kind.__name__ in {"Lineage", "TensorSummary", "VersionFile"})


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_properties_that_are_part_of_the_json_exist_and_are_no_fields(kind: type) -> None:
    fields = {field.name for field in dataclasses.fields(kind)}
    assert all(hasattr(kind, name) and name not in fields for name in getattr(kind, "in_json", ()))


def test_every_result_is_in_the_reference() -> None:
    text = (Path(__file__).parent.parent / "docs" / "reference" / "python.md").read_text("utf-8")
    assert [name for name in results.__all__ if f"`{name}" not in text and f"skyhold.{name}`" not in text] == []


def test_json_has_the_fields_and_the_named_properties() -> None:
    entry = LogEntry("ab" * 32, ("cd" * 32,), "ann", "2026-11-23T20:05:02Z", "First", ("branch/main",), {"loss": 0.5})
    assert as_json(entry) == {
        "digest": "ab" * 32, "parents": ["cd" * 32], "author": "ann", "time": "2026-11-23T20:05:02Z",
        "message": "First", "refs": ["branch/main"], "metrics": {"loss": 0.5}, "unread": "", "id": "ab" * 20,
    }  # fmt: skip


def test_json_of_a_plan_has_its_fields_and_is_marked_as_a_plan() -> None:
    sources = PullSources(cached_bytes=3, bucket_bytes={"b": 4})
    plan = as_json(PullPlan("team/m", "ab" * 32, "out", 1, 9, 2, sources))
    assert (plan["dry_run"], plan["fetched_bytes"], plan["id"]) == (True, 7, "ab" * 20)
    assert plan["sources"] == {"cached_bytes": 3, "bucket_bytes": {"b": 4}, "absent_bytes": 0, "unreachable": {}}


def test_json_shows_what_is_stored_in_its_stored_form() -> None:
    location = parse_location("s3://b")
    assert as_json({"policy": Policy(copies=2), "bucket": location}) == {
        "policy": Policy(copies=2).to_json(), "bucket": {"name": "b", "url": "s3://b", "provider": "aws"},
    }  # fmt: skip


def test_json_is_plain_text_for_members_of_an_enumeration() -> None:
    class Kind(enum.StrEnum):
        ONE = "one"

    assert type(as_json(Kind.ONE)) is str
    assert json.dumps(as_json((Kind.ONE, None, True, 1.5))) == '["one", null, true, 1.5]'


def test_json_of_what_has_none_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="set has no JSON form"):
        as_json({"names": {"a"}})

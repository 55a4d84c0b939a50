"""Errors of several buckets in one sentence."""

from __future__ import annotations

from skyhold.errors import NotFound, Unavailable, reasons_of


def test_equal_messages_of_several_buckets_are_reported_once() -> None:
    errors = {
        name: NotFound(f"Bucket `{name}` has no object `packs/ab`", code="object_not_found") for name in ("c", "a")
    }
    assert reasons_of(errors) == "`a`, `c`: each has no object `packs/ab`"
    other = Unavailable("Bucket `b` does not answer")
    assert reasons_of(errors | {"b": other}) == (
        "`a`, `c`: each has no object `packs/ab`; `b`: Bucket `b` does not answer"
    )
    assert reasons_of({}) == ""

"""The value of the register `config`."""

from __future__ import annotations

import pytest
import rfc8785

from skyhold.buckets.location import parse_location
from skyhold.errors import AlreadyExists, Corrupt, InvalidInput, NotFound, QuotaExceeded
from skyhold.storage.policy import Policy
from skyhold.store.configuration import (
    Configuration,
    ConfiguredBucket,
    add_bucket,
    decode_configuration,
    encode_configuration,
    remove_buckets,
    replace_bucket,
)


def bucket(name: str, number: int, url: str | None = None) -> ConfiguredBucket:
    return ConfiguredBucket(parse_location(url or f"s3://{name}/models", name=name, region="eu"), f"{number:032x}")


TWO = Configuration((bucket("a", 1), bucket("b", 2)), Policy(copies=2))


def test_configuration_survives_its_json() -> None:
    assert decode_configuration(encode_configuration(TWO)) == TWO


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", rfc8785.dumps({"configuration": 1, "buckets": [], "policy": {}}),
     encode_configuration(TWO).replace(b"voter", b"boss!"), encode_configuration(TWO) + b" ",
     encode_configuration(TWO).replace(b'"copies":2', b'"copies":9')],
)  # fmt: skip
def test_malformed_configuration_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_configuration(body)


def test_a_later_form_asks_for_an_upgrade() -> None:
    with pytest.raises(InvalidInput) as newer:
        decode_configuration(rfc8785.dumps({"configuration": 2}))
    assert newer.value.code == "format_newer"


def test_a_configuration_that_a_store_cannot_live_with_is_refused() -> None:
    for buckets in ((), (bucket("a", 1), bucket("a", 2)), (bucket("a", 1), bucket("b", 2, "s3://a/models"))):
        with pytest.raises(InvalidInput):
            Configuration(buckets)
    with pytest.raises(InvalidInput, match="3 copies"):
        Configuration(TWO.buckets, Policy(copies=3))


def test_buckets_are_added_replaced_and_removed() -> None:
    three = add_bucket(TWO, bucket("c", 3))
    assert [location.name for location in three.locations] == ["a", "b", "c"]
    assert remove_buckets(three, ["c"]) == TWO
    with pytest.raises(NotFound, match="`x`"):
        remove_buckets(three, ["c", "x"])
    assert replace_bucket(TWO, bucket("b", 9)).bucket("b").incarnation == f"{9:032x}"
    with pytest.raises(AlreadyExists):
        add_bucket(TWO, bucket("a", 3))
    for change in (lambda: remove_buckets(TWO, ["x"]), lambda: replace_bucket(TWO, bucket("x", 3))):
        with pytest.raises(NotFound, match="`x`"):
            change()


def test_a_bucket_that_a_policy_needs_stays() -> None:
    with pytest.raises(InvalidInput, match="2 copies"):
        remove_buckets(TWO, ["b"])
    three = add_bucket(TWO, bucket("c", 3))
    with pytest.raises(InvalidInput, match="3 copies"):
        remove_buckets(three, ["c"], [Policy(), Policy(copies=3)])
    with pytest.raises(InvalidInput) as last:
        remove_buckets(Configuration((bucket("a", 1),)), ["a"])
    assert last.value.code == "last_bucket"
    with pytest.raises(InvalidInput) as all_of_them:
        remove_buckets(three, ["a", "b", "c"])
    assert all_of_them.value.code == "last_bucket"


def test_a_configuration_too_large_for_its_register_is_refused() -> None:
    with pytest.raises(QuotaExceeded):
        encode_configuration(Configuration(tuple(bucket(f"b{n}", n) for n in range(200))))

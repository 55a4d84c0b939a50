"""What a policy allows, demands and costs."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyhold.buckets.location import BucketLocation
from skyhold.errors import InvalidInput
from skyhold.storage.policy import (
    Policy,
    allowed,
    check_possible,
    durability,
    loss_report,
    losses_survived,
    placement_class,
)


def bucket(name: str, provider: str = "aws", region: str | None = "eu-west-1") -> BucketLocation:
    return BucketLocation(name, f"memory://{name}", provider, region=region)


THREE = [bucket("a", "aws"), bucket("b", "google", "europe-west4"), bucket("c", "azure", "us-east")]

policies = st.builds(
    Policy,
    copies=st.none() | st.integers(1, 6),
    providers=st.integers(1, 4),
    regions=st.lists(st.sampled_from(["eu-*", "us-?", "a", "x[1-3]"]), max_size=3).map(tuple),
    delta=st.sampled_from(["storage", "egress", "off"]),
)
stores = st.lists(st.sampled_from(["aws", "google", "azure"]), min_size=1, max_size=6).map(
    lambda providers: [bucket(f"b{i}", provider) for i, provider in enumerate(providers)]
)


@given(policies)
def test_policy_survives_json(policy: Policy) -> None:
    assert Policy.from_json(policy.to_json()) == policy


@pytest.mark.parametrize(
    "value",
    [
        None, [], {"copies": 0}, {"copies": True}, {"copies": "2"}, {"providers": None}, {"providers": 0},
        {"regions": "eu-*"}, {"regions": [""]}, {"regions": ["eu west"]}, {"regions": [3]}, {"delta": "none"},
        {"delta": None}, {"copy": 2},
    ],
)  # fmt: skip
def test_malformed_policy_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        Policy.from_json(value)
    assert refused.value.code == "policy_invalid"


def test_placement_class_is_of_the_regions_alone() -> None:
    assert placement_class(Policy()) == "bbe6728ecb80f47e"  # in every pack: it never changes
    assert placement_class(Policy(copies=2, providers=3, delta="off")) == placement_class(Policy())
    assert placement_class(Policy(regions=("us-*", "eu-*"))) == placement_class(
        Policy(regions=("eu-*", "us-*", "eu-*"))
    )
    assert placement_class(Policy(regions=("eu-*",))) != placement_class(Policy())


def test_regions_allow_by_glob_and_never_an_unknown_region() -> None:
    buckets = [*THREE, bucket("d", region=None)]
    assert [b.name for b in allowed(Policy(), buckets)] == ["a", "b", "c", "d"]
    assert [b.name for b in allowed(Policy(regions=("eu*",)), buckets)] == ["a", "b"]
    assert [b.name for b in allowed(Policy(regions=("*",)), buckets)] == ["a", "b", "c"]


def test_default_is_a_majority_of_the_buckets() -> None:
    assert not durability(Policy(), THREE, {"a"}).met
    assert durability(Policy(), THREE, {"a", "c"}).met
    assert durability(Policy(), THREE[:1], {"a"}).met


def test_replicas_in_forbidden_buckets_do_not_count() -> None:
    durable = durability(Policy(copies=2, regions=("eu*",)), THREE, {"a", "c"})
    assert not durable.met
    assert durable.describe() == "Not durable: 1 of 2 verified copies; missing in b"


def test_too_few_providers_are_not_durable() -> None:
    buckets = [bucket("a"), bucket("b"), bucket("c", "google")]
    durable = durability(Policy(copies=2, providers=2), buckets, {"a", "b"})
    assert not durable.met
    assert durable.describe() == "Not durable: 1 of 2 providers; missing in c"


def test_impossible_policies_name_the_numbers() -> None:
    with pytest.raises(InvalidInput, match=r"4 copies.*3 allowed buckets"):
        check_possible(Policy(copies=4), THREE)
    with pytest.raises(InvalidInput, match=r"2 providers.*have 1: aws"):
        check_possible(Policy(providers=2), [bucket("a"), bucket("b")])
    with pytest.raises(InvalidInput, match=r"majority of the buckets, that is 2 copies in regions us-east.*1 allowed"):
        check_possible(Policy(regions=("us-east",)), THREE)


@given(policies, stores)
def test_losses_survived_agree_with_trying_every_loss(policy: Policy, buckets: list[BucketLocation]) -> None:
    policy = Policy(policy.copies, policy.providers)
    try:
        check_possible(policy, buckets)
    except InvalidInput:
        return
    names = [b.name for b in buckets]

    def meets(held: set[str]) -> bool:
        return durability(policy, buckets, held).met

    push = max(
        lost for lost in range(len(names)) if all(meets(set(names) - set(gone)) for gone in combinations(names, lost))
    )
    durable = [
        set(held) for count in range(1, len(names) + 1) for held in combinations(names, count) if meets(set(held))
    ]
    read = max(
        lost
        for lost in range(len(names))
        if all(held - set(gone) for held in durable for gone in combinations(names, lost))
    )
    claimed_push, claimed_read = losses_survived(policy, buckets)
    assert claimed_push == push
    assert claimed_read == read
    assert loss_report(buckets, policy)


def test_loss_report_of_two_buckets_reports_that_pushing_needs_both() -> None:
    assert loss_report(THREE[:2], Policy()) == [
        "A version is durable once 2 verified copies are in 2 buckets.",
        "Pushing needs all 2 buckets: while one is away, no version can be pushed.",
        "Reading: every durable version survives the loss of any 1 bucket.",
    ]


def test_loss_report_of_one_bucket_and_of_one_provider() -> None:
    assert loss_report(THREE[:1], Policy()) == ["All versions are in bucket `a` alone: if it is lost, they are lost."]
    report = loss_report([bucket("a"), bucket("b"), bucket("c")], Policy())
    assert report[-1] == "All buckets are of one provider (aws): losing it loses every version."

"""A policy as text."""

from __future__ import annotations

from collections.abc import Sequence

from skyhold.buckets.location import BucketLocation
from skyhold.cli.render import line, properties
from skyhold.storage.policy import Policy, loss_report


def show_policy(title: str, policy: Policy, buckets: Sequence[BucketLocation]) -> None:
    """The policy's terms and what the loss of a bucket would cost under it."""
    line(title)
    properties(
        [
            ("copies", "a majority of the buckets" if policy.copies is None else str(policy.copies)),
            ("providers", f"at least {policy.providers}"),
            ("regions", ", ".join(policy.regions) or "any"),
            ("delta", policy.delta),
        ]
    )
    for sentence in loss_report(buckets, policy):
        line(f"  {sentence}")

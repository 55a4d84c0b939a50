"""The provider's own rules of a bucket that could hurt a store: they delete, keep or freeze objects without our
knowledge.

Pure: the drivers fetch the documents, this module reads them. A rule that cannot be asked for is `unknown`, never
`absent`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Verdict = Literal["absent", "harmless", "costly", "harmful", "unknown"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of rule. `costly` rules keep bytes that were deleted, so that they still cost; `harmful` ones delete or
    freeze objects that the store relies on."""

    verdict: Verdict
    detail: str


@dataclass(frozen=True, slots=True)
class BucketRules:
    """`lifecycle`: deletes or moves by age. `versioning`: keeps what was deleted or replaced. `retention`: forbids to
    replace or delete for a time (object lock, retention policy, immutability, legal hold)."""

    lifecycle: Rule
    versioning: Rule
    retention: Rule


NO_LIFECYCLE: Final = Rule("absent", "No lifecycle rule")
NO_VERSIONING: Final = Rule("absent", "Deleted bytes are gone at once")
NO_RETENTION: Final = Rule("absent", "No retention rule")


def no_rules(why: str) -> BucketRules:
    """No rule of any kind can be there, for the one reason `why`."""
    return BucketRules(*(Rule("absent", why) for _ in range(3)))


def unknown_rules(why: str) -> BucketRules:
    """All rules unknown, for the one reason `why`."""
    return BucketRules(*(Rule("unknown", why) for _ in range(3)))


def google_rules(bucket: Mapping[str, Any]) -> BucketRules:
    """From a bucket resource (https://cloud.google.com/storage/docs/json_api/v1/buckets#resource)."""
    actions = sorted({rule.get("action", {}).get("type", "") for rule in bucket.get("lifecycle", {}).get("rule", ())})
    retention = bucket.get("retentionPolicy", {})
    soft_s = int(bucket.get("softDeletePolicy", {}).get("retentionDurationSeconds", 0))
    versioned = bucket.get("versioning", {}).get("enabled", False)
    frozen = f"Objects are frozen for {retention['retentionPeriod']} s" if retention else ""
    if bucket.get("defaultEventBasedHold", False):
        frozen = "New objects are held until an event releases them"
    return BucketRules(
        lifecycle=_lifecycle(actions, deletes="Delete", moves="SetStorageClass"),
        versioning=_kept(versioned=versioned, soft_delete_days=soft_s / 86400),
        retention=_retention(frozen),
    )


def azure_rules(*, retained: bool, soft_delete_days: int | None) -> BucketRules:
    """From the properties of a container and its account: all that Azure's data plane reports."""
    management = "Only Azure's management plane reports it: `az storage account management-policy show`"
    return BucketRules(
        lifecycle=Rule("unknown", management),
        versioning=_kept(versioned=False, soft_delete_days=soft_delete_days)
        if soft_delete_days
        else Rule("unknown", "Only Azure's management plane reports whether blobs are versioned"),
        retention=_retention("An immutability policy or a legal hold freezes blobs" if retained else ""),
    )


def s3_rules(lifecycle_actions: Sequence[str] | None, versioning: str | None, object_lock: str | None) -> BucketRules:
    """From the replies to `?lifecycle`, `?versioning` and `?object-lock`; None for one that could not be had.

    `lifecycle_actions` are the names of the elements of enabled rules that do something, `versioning` is `Enabled`,
    `Suspended` or empty, `object_lock` the mode of the default retention or empty.
    """
    unknown = Rule("unknown", "The store does not report it, or the credentials may not ask")
    return BucketRules(
        lifecycle=unknown
        if lifecycle_actions is None
        else _lifecycle(lifecycle_actions, deletes="Expiration", moves="Transition"),
        versioning=unknown if versioning is None else _kept(versioned=versioning == "Enabled", soft_delete_days=0),
        retention=unknown
        if object_lock is None
        else _retention(f"New objects are locked by default ({object_lock})" if object_lock else ""),
    )


def _lifecycle(actions: Sequence[str], *, deletes: str, moves: str) -> Rule:
    if deletes in actions:
        return Rule("harmful", "A lifecycle rule deletes objects by age: versions would lose bytes. Remove it")
    if moves in actions:
        return Rule("costly", "A lifecycle rule moves objects to colder classes: reads get slow or need a restore")
    return Rule("harmless", f"Lifecycle rules: {', '.join(actions)}") if actions else NO_LIFECYCLE


def _kept(*, versioned: bool, soft_delete_days: float) -> Rule:
    if versioned:
        return Rule("costly", "Versioning keeps what gc deletes and what registers replace: expire noncurrent versions")
    if soft_delete_days:
        return Rule("costly", f"Deleted objects are kept, and cost, for {soft_delete_days:g} days")
    return NO_VERSIONING


def _retention(why: str) -> Rule:
    return Rule("harmful", f"{why}: registers could not be replaced, nor garbage deleted") if why else NO_RETENTION

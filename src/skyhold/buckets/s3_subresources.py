"""The rules of a bucket, as S3 has them in its `?lifecycle`, `?versioning` and `?object-lock`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from xml.etree.ElementTree import Element

from skyhold.buckets.rules import BucketRules, s3_rules
from skyhold.buckets.s3_xml import NoDocument, local, parsed, text_below

SUBRESOURCES: Final = ("lifecycle", "versioning", "object-lock")
NOT_SET: Final = frozenset({"NoSuchLifecycleConfiguration", "ObjectLockConfigurationNotFoundError"})
ACTIONS: Final = ("Expiration", "Transition", "NoncurrentVersionExpiration", "NoncurrentVersionTransition")


def read_rules(replies: Mapping[str, tuple[int, bytes]]) -> BucketRules:
    """The rules from status and body of each subresource's reply. A document that the store does not have, or keeps
    from us, leaves its rule unknown."""
    lifecycle, versioning, lock = (_document(name, *replies[name]) for name in SUBRESOURCES)
    return s3_rules(
        None if lifecycle is None else _lifecycle_actions(lifecycle),
        None if versioning is None else text_below(versioning, "Status"),
        None if lock is None else text_below(lock, "Mode"),
    )


def _document(name: str, status: int, body: bytes) -> Element | None:
    """The document, an empty one where the store reports that none is set, None where it reports nothing."""
    try:
        document = parsed(body)
    except NoDocument:
        return None
    if status == 404 and text_below(document, "Code") in NOT_SET:
        return Element(name)
    return document if status == 200 else None


def _lifecycle_actions(document: Element) -> list[str]:
    """The actions of the rules that are enabled. An Expiration that only clears delete markers deletes no object."""
    rules = [rule for rule in document if local(rule) == "Rule" and text_below(rule, "Status") == "Enabled"]
    return [
        local(action)
        for rule in rules
        for action in rule
        if local(action) in ACTIONS and not text_below(action, "ExpiredObjectDeleteMarker")
    ]

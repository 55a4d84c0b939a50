"""A provider's rules that would hurt a store are distinguished from those that would not, and from the unknown."""

from __future__ import annotations

from skyhold.buckets.rules import azure_rules, google_rules, s3_rules, unknown_rules


def test_bare_google_bucket_has_no_rules() -> None:
    rules = google_rules({"versioning": {"enabled": False}})
    assert {rules.lifecycle.verdict, rules.versioning.verdict, rules.retention.verdict} == {"absent"}


def test_google_rules_that_hurt_are_named() -> None:
    rules = google_rules(
        {
            "lifecycle": {"rule": [{"action": {"type": "Delete"}, "condition": {"age": 30}}]},
            "softDeletePolicy": {"retentionDurationSeconds": "604800"},
            "retentionPolicy": {"retentionPeriod": "86400"},
        }
    )
    assert (rules.lifecycle.verdict, rules.versioning.verdict, rules.retention.verdict) == (
        "harmful",
        "costly",
        "harmful",
    )
    assert "7 days" in rules.versioning.detail


def test_google_rule_that_only_ends_uploads_is_harmless() -> None:
    rules = google_rules({"lifecycle": {"rule": [{"action": {"type": "AbortIncompleteMultipartUpload"}}]}})
    assert rules.lifecycle.verdict == "harmless"


def test_colder_storage_class_costs() -> None:
    assert (
        google_rules({"lifecycle": {"rule": [{"action": {"type": "SetStorageClass"}}]}}).lifecycle.verdict == "costly"
    )
    assert s3_rules(["Transition"], "", "").lifecycle.verdict == "costly"


def test_default_hold_freezes_a_google_bucket() -> None:
    assert google_rules({"defaultEventBasedHold": True}).retention.verdict == "harmful"


def test_what_azure_does_not_report_is_unknown_and_not_absent() -> None:
    rules = azure_rules(retained=True, soft_delete_days=None)
    assert (rules.lifecycle.verdict, rules.versioning.verdict, rules.retention.verdict) == (
        "unknown",
        "unknown",
        "harmful",
    )
    assert azure_rules(retained=False, soft_delete_days=7).versioning.verdict == "costly"


def test_what_an_s3_store_does_not_report_is_unknown() -> None:
    assert s3_rules(None, None, None).retention.verdict == "unknown"
    assert unknown_rules("why").lifecycle.detail == "why"


def test_s3_rules_that_hurt_are_named() -> None:
    rules = s3_rules(["Expiration"], "Enabled", "COMPLIANCE")
    assert (rules.lifecycle.verdict, rules.versioning.verdict, rules.retention.verdict) == (
        "harmful",
        "costly",
        "harmful",
    )


def test_s3_rule_for_noncurrent_versions_is_harmless() -> None:
    assert s3_rules(["NoncurrentVersionExpiration"], "Suspended", "").lifecycle.verdict == "harmless"

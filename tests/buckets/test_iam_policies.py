"""The printed policies name the bucket and grant no more than the role's operations."""

from __future__ import annotations

import json

import pytest

from skyhold.buckets.iam_policies import ROLES, least_policy
from skyhold.buckets.location import parse_location
from skyhold.errors import InvalidInput

S3 = parse_location("s3://models/team")
GOOGLE = parse_location("gs://models/team")
AZURE = parse_location("az://account/models/team")


def test_aws_reader_may_not_write() -> None:
    policy = json.loads(least_policy(S3, "reader"))
    assert [statement["Action"] for statement in policy["Statement"]] == [["s3:ListBucket"], ["s3:GetObject"]]


def test_aws_rights_end_at_the_prefix() -> None:
    listing, objects, rules = json.loads(least_policy(S3, "voter"))["Statement"]
    assert listing["Condition"] == {"StringLike": {"s3:prefix": "team/*"}}
    assert objects["Resource"] == "arn:aws:s3:::models/team/*"
    assert rules["Resource"] == "arn:aws:s3:::models"
    assert all(action.startswith("s3:Get") for action in rules["Action"])


def test_google_writer_may_delete_since_an_overwrite_is_one() -> None:
    lines = least_policy(GOOGLE, "writer").splitlines()
    assert "- storage.objects.delete" in lines
    assert "- storage.buckets.get" not in lines


def test_azure_role_separates_data_from_control() -> None:
    reader, voter = (json.loads(least_policy(AZURE, role)) for role in ("reader", "voter"))
    assert reader["Actions"] == []
    assert reader["DataActions"] == ["Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read"]
    assert "Microsoft.Storage/storageAccounts/blobServices/containers/read" in voter["Actions"]
    assert voter["AssignableScopes"][0].endswith("/storageAccounts/account")


@pytest.mark.parametrize("location", [S3, GOOGLE, AZURE], ids=lambda location: location.scheme)
def test_every_role_of_every_cloud_has_a_policy_that_names_the_bucket(location: object) -> None:
    texts = [least_policy(location, role) for role in ROLES]  # type: ignore[arg-type]
    assert all("models" in text for text in texts)
    assert len(set(texts)) == len(ROLES)


def test_folder_has_no_policy() -> None:
    with pytest.raises(InvalidInput) as caught:
        least_policy(parse_location("/srv/models"), "reader")
    assert caught.value.code == "no_policies"

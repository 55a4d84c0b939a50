"""Signatures are those of AWS's own examples, and of its own library."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from skyhold.buckets.s3_http import EMPTY_SHA256
from skyhold.buckets.s3_signing import Keys, path_of, query_of, signed_headers

EXAMPLE = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
HOST = "examplebucket.s3.amazonaws.com"
THEN = datetime(2013, 5, 24, tzinfo=UTC)


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "signature"),
    [
        ("GET", "/test.txt", {}, {"range": "bytes=0-9", "x-amz-content-sha256": EMPTY_SHA256},
         "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
        ("PUT", "/test$file.text", {},
         {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY",
          "x-amz-content-sha256": "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"},
         "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
        ("GET", "/", {"lifecycle": ""}, {"x-amz-content-sha256": EMPTY_SHA256},
         "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("GET", "/", {"max-keys": "2", "prefix": "J"}, {"x-amz-content-sha256": EMPTY_SHA256},
         "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)  # fmt: skip
def test_signature_is_that_of_the_documented_example(
    method: str, path: str, query: dict[str, str], headers: dict[str, str], signature: str
) -> None:
    given_headers = {"host": HOST, **headers}
    signed = signed_headers(method, path_of(path), query_of(query), given_headers, EXAMPLE, "us-east-1", THEN)
    assert signed["authorization"].endswith(f"Signature={signature}")


@given(
    path=st.text(max_size=40).map(lambda text: f"/{text}"),
    query=st.dictionaries(st.text("abc-", min_size=1, max_size=9), st.text(max_size=20), max_size=4),
    token=st.sampled_from(["", "session/+="]),
)
def test_signature_is_that_of_the_vendors_library(path: str, query: dict[str, str], token: str) -> None:
    keys = Keys("id", "secret", token)
    url = f"https://{HOST}{path_of(path)}" + (f"?{query_of(query)}" if query else "")
    oracle = AWSRequest("GET", url, headers={"X-Amz-Content-SHA256": EMPTY_SHA256})
    signer = S3SigV4Auth(Credentials(keys.access_key_id, keys.secret_access_key, token or None), "s3", "eu-west-1")
    signer.add_auth(oracle)
    then = datetime.strptime(oracle.context["timestamp"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    headers = {"host": HOST, "x-amz-content-sha256": EMPTY_SHA256}
    ours = signed_headers("GET", path_of(path), query_of(query), headers, keys, "eu-west-1", then)
    assert ours["authorization"].rpartition("=")[2] == oracle.headers["Authorization"].rpartition("=")[2]


def test_secret_is_in_no_repr() -> None:
    assert "wJalr" not in repr(EXAMPLE)

"""The tests of the shared suites that a store, or the emulator in its place, cannot pass: each by name, with the reason
and what shows it instead. Nothing else in these suites may skip (`conftest.py` holds them to it).
"""

from __future__ import annotations

from typing import Final

EXEMPT: Final = {
    "test_memory.py::TestMemory::test_gone_bucket_is_named_by_every_call": "It lives in this process, so it is there",
    "test_memory.py::TestMemory::test_wrong_credentials_are_permission_denied": "It takes no credentials",
    "test_folder.py::TestFolder::test_wrong_credentials_are_permission_denied": "It takes no credentials",
    "test_google.py::TestFakeGcsServer::test_wrong_credentials_are_permission_denied": (
        "fake-gcs-server asks for none; the fault suite answers 401 and 403"
    ),
    "test_s3.py::TestSeaweedFS::test_listing_order_is_that_of_the_bytes": (
        "SeaweedFS lists by folders; that the driver refuses such a listing is tested there"
    ),
    "test_s3.py::TestSeaweedFS::test_gone_bucket_is_named_by_every_call": (
        "SeaweedFS makes a missing bucket on the first write; versitygw shows it"
    ),
    "test_s3.py::TestSeaweedFS::test_bucket_is_admitted_as_voter": (
        "SeaweedFS keeps contenders waiting for seconds; that it is atomic and yet refused for this is tested there"
    ),
    "test_s3.py::TestSeaweedFS::test_rules_of_the_bucket_are_reported_where_there_are_any": (
        "SeaweedFS does not report it to these credentials; unknown rules are tested with a scripted server"
    ),
}
"""`module::class::test`: why."""

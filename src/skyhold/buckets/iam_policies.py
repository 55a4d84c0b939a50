"""The least rights that each role needs on a bucket, as a document for the owner of the account.

- `reader` pulls versions: list and read.
- `writer` also pushes, repairs and collects garbage: write and delete. Google counts an overwrite as a delete.
- `voter` also changes registers, so it reads the bucket's own rules: one that deletes or freezes registers would make
  the voter forget what it promised.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final, Literal

from skyhold import error_codes
from skyhold.buckets.location import BucketLocation
from skyhold.errors import InvalidInput

Role = Literal["reader", "writer", "voter"]
ROLES: Final[tuple[Role, ...]] = ("reader", "writer", "voter")
Operation = Literal["list", "read", "write", "replace", "delete", "rules"]

AZURE_BLOBS: Final = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"

PERMISSIONS: Final[dict[str, dict[Operation, tuple[str, ...]]]] = {
    "s3": {
        "list": ("s3:ListBucket",),
        "read": ("s3:GetObject",),
        "write": ("s3:PutObject", "s3:AbortMultipartUpload"),
        "replace": ("s3:PutObject", "s3:GetObject"),
        "delete": ("s3:DeleteObject",),
        "rules": ("s3:GetLifecycleConfiguration", "s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration"),
    },
    "gs": {
        "list": ("storage.objects.list",),
        "read": ("storage.objects.get",),
        "write": ("storage.objects.create",),
        "replace": ("storage.objects.create", "storage.objects.delete"),
        "delete": ("storage.objects.delete",),
        "rules": ("storage.buckets.get",),
    },
    "az": {
        "list": (f"{AZURE_BLOBS}/read",),
        "read": (f"{AZURE_BLOBS}/read",),
        "write": (f"{AZURE_BLOBS}/write", f"{AZURE_BLOBS}/add/action"),
        "replace": (f"{AZURE_BLOBS}/write",),
        "delete": (f"{AZURE_BLOBS}/delete",),
        "rules": (
            "Microsoft.Storage/storageAccounts/blobServices/containers/read",
            "Microsoft.Storage/storageAccounts/blobServices/read",
        ),
    },
}
"""URL scheme and operation: what the vendor calls the rights to it."""

OPERATIONS: Final[dict[Role, tuple[Operation, ...]]] = {
    "reader": ("list", "read"),
    "writer": ("list", "read", "write", "replace", "delete"),
    "voter": ("list", "read", "write", "replace", "delete", "rules"),
}


def permissions_for(location: BucketLocation, operations: Sequence[Operation]) -> tuple[str, ...]:
    """The vendor's names of the rights to `operations`, sorted; none for a folder or memory."""
    table = PERMISSIONS.get(location.scheme, {})
    return tuple(sorted({right for operation in operations for right in table.get(operation, ())}))


def least_policy(location: BucketLocation, role: Role) -> str:
    """The document for `role`, filled in with the bucket's own names: an AWS IAM policy (JSON), a Google custom role
    (YAML, with the commands that bind it) or an Azure role definition (JSON).

    Raises `InvalidInput` code `no_policies` for a folder or memory, which no vendor guards.
    """
    if role not in OPERATIONS:
        raise InvalidInput(f"Expected one of {', '.join(ROLES)} but got role {role!r}", code=error_codes.INVALID_ROLE)
    write = WRITERS.get(location.scheme)
    if write is None:
        raise InvalidInput(
            f"Bucket `{location.name}` is no cloud's: its folder's own permissions decide who may use it",
            code=error_codes.NO_POLICIES,
            bucket=location.name,
        )
    return write(location, role)


def _aws(location: BucketLocation, role: Role) -> str:
    bucket = f"arn:aws:s3:::{location.container}"
    prefix = f"{location.prefix}/" if location.prefix else ""
    on_objects: list[Operation] = [name for name in OPERATIONS[role] if name not in {"list", "rules"}]
    listing: dict[str, object] = {
        "Sid": "List",
        "Effect": "Allow",
        "Action": list(permissions_for(location, ["list"])),
        "Resource": bucket,
    }
    if prefix:
        listing["Condition"] = {"StringLike": {"s3:prefix": f"{prefix}*"}}
    objects = permissions_for(location, on_objects)
    statements = [
        listing,
        {"Sid": "Objects", "Effect": "Allow", "Action": list(objects), "Resource": f"{bucket}/{prefix}*"},
    ]
    if "rules" in OPERATIONS[role]:
        rules = permissions_for(location, ["rules"])
        statements.append({"Sid": "Rules", "Effect": "Allow", "Action": list(rules), "Resource": bucket})
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2)


def _google(location: BucketLocation, role: Role) -> str:
    name = f"skyhold{role.capitalize()}"
    rights = "\n".join(f"- {right}" for right in permissions_for(location, OPERATIONS[role]))
    return (
        f"# gcloud iam roles create {name} --project=PROJECT --file=THIS_FILE\n"
        f"# gcloud storage buckets add-iam-policy-binding gs://{location.container} \\\n"
        f"#   --member=serviceAccount:ACCOUNT --role=projects/PROJECT/roles/{name}\n"
        f"title: Skyhold {role} of {location.container}\n"
        f"stage: GA\n"
        f"includedPermissions:\n{rights}\n"
    )


def _azure(location: BucketLocation, role: Role) -> str:
    account = (
        "/subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/Microsoft.Storage/storageAccounts/"
        f"{location.account}"
    )
    data: list[Operation] = [name for name in OPERATIONS[role] if name != "rules"]
    control: list[Operation] = [name for name in OPERATIONS[role] if name == "rules"]
    definition = {
        "Name": f"Skyhold {role} of {location.account}/{location.container}",
        "IsCustom": True,
        "Description": f"What Skyhold needs on container {location.container} as {role}",
        "Actions": list(permissions_for(location, control)),
        "DataActions": list(permissions_for(location, data)),
        "AssignableScopes": [account],
    }
    return json.dumps(definition, indent=2)


WRITERS: Final[dict[str, Callable[[BucketLocation, Role], str]]] = {"s3": _aws, "gs": _google, "az": _azure}

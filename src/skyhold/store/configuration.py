"""The value of the register `config`: the store's buckets, their roles, the default policy, the features. Pure.

A change is a function from one configuration to the next, which the caller compare-and-sets; each is checked, so that
a configuration that exists is one that the store can live with.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, cast

from skyhold import error_codes
from skyhold.buckets.location import BucketLocation
from skyhold.errors import AlreadyExists, Corrupt, InvalidInput, NotFound, QuotaExceeded
from skyhold.storage.canonical import Json, decode_canonical, encode
from skyhold.storage.policy import Policy, check_possible
from skyhold.store.features import Features

Role = Literal["voter", "packs"]

ROLES: Final[tuple[Role, ...]] = ("voter", "packs")
CONFIGURATION_BYTES_MAX: Final = 16 << 10

_FIELDS: Final = frozenset(("configuration", "buckets", "policy", "features", "log"))
_INCARNATION: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class ConfiguredBucket:
    """One bucket of the store. A `voter` takes part in consensus; a bucket for `packs` only stores.

    `incarnation` is what its `store.json` must contain; a bucket that was restored from a backup or emptied has
    another.
    """

    location: BucketLocation
    incarnation: str
    role: Role = "voter"

    def __post_init__(self) -> None:
        if not _INCARNATION.fullmatch(self.incarnation):
            raise InvalidInput(
                f"Expected an incarnation of 32 hex digits but got {self.incarnation!r}",
                code=error_codes.CONFIGURATION_INVALID,
            )
        if self.role not in ROLES:
            raise InvalidInput(
                f"Expected the role of bucket `{self.location.name}` to be one of {', '.join(ROLES)} "
                f"but got {self.role!r}",
                code=error_codes.CONFIGURATION_INVALID,
            )


@dataclass(frozen=True, slots=True)
class Configuration:
    """The buckets of a store, in the order in which they were added, the policy of new repositories, and the features
    that a program must know. `log` is the history of the configuration (format.md, 10), which is kept as it is here.

    Raises `InvalidInput` for no bucket, for a name or place that occurs twice, and for a default policy that these
    buckets can never meet.
    """

    buckets: tuple[ConfiguredBucket, ...]
    policy: Policy = field(default_factory=Policy)
    features: Features = Features()  # noqa: RUF009 (it is immutable)
    log: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.buckets:
            raise InvalidInput("A store has at least one bucket", code=error_codes.CONFIGURATION_INVALID)
        _refuse_repeated("name", [bucket.location.name for bucket in self.buckets])
        _refuse_repeated("place", [bucket.location.place for bucket in self.buckets])
        _refuse_repeated("incarnation", [bucket.incarnation for bucket in self.buckets])
        check_possible(self.policy, self.locations)

    @property
    def locations(self) -> tuple[BucketLocation, ...]:
        return tuple(bucket.location for bucket in self.buckets)

    def bucket(self, name: str) -> ConfiguredBucket:
        """The bucket of this name. Raises `NotFound`."""
        for bucket in self.buckets:
            if bucket.location.name == name:
                return bucket
        raise NotFound(
            f"The store has no bucket `{name}`",
            code=error_codes.BUCKET_NOT_CONFIGURED,
            hint="Its buckets are " + ", ".join(bucket.location.name for bucket in self.buckets),
            bucket=name,
        )


def encode_configuration(configuration: Configuration) -> bytes:
    """The canonical JSON of the register `config`. Raises `QuotaExceeded` where it would pass 16 KiB."""
    body = encode(
        {
            "configuration": 1,
            "buckets": [
                {"location": bucket.location.to_json(), "incarnation": bucket.incarnation, "role": bucket.role}
                for bucket in configuration.buckets
            ],
            "policy": configuration.policy.to_json(),
            "features": configuration.features.to_json(),
            "log": configuration.log,
        },
        "configuration",
    )
    if len(body) > CONFIGURATION_BYTES_MAX:
        raise QuotaExceeded(
            f"The configuration of {len(configuration.buckets)} buckets has {len(body)} bytes, over the "
            f"{CONFIGURATION_BYTES_MAX} of a register",
            code=error_codes.CONFIGURATION_TOO_LARGE,
        )
    return body


def decode_configuration(body: bytes | bytearray | memoryview) -> Configuration:
    """The inverse. Raises `Corrupt` for anything else, and `InvalidInput` code `format_newer` for a later form."""
    if len(body) > CONFIGURATION_BYTES_MAX:
        raise Corrupt(
            f"The configuration is malformed: it has {len(body)} bytes", code=error_codes.CONFIGURATION_MALFORMED
        )
    document = decode_canonical(body, "configuration")
    number = document.get("configuration")
    if type(number) is int and number > 1:
        raise InvalidInput(
            f"The store's configuration is of form {number}, and this Skyhold reads form 1",
            code=error_codes.FORMAT_NEWER,
            hint="Upgrade: pip install --upgrade skyhold",
        )
    buckets = document.get("buckets")
    if (
        document.keys() != {"configuration", "buckets", "policy", "features", "log"}
        or number != 1
        or not isinstance(buckets, list)
    ):
        raise Corrupt("The configuration is malformed: it has other fields", code=error_codes.CONFIGURATION_MALFORMED)
    log = document["log"]
    if not isinstance(log, dict):
        raise Corrupt("The configuration is malformed: its log is no object", code=error_codes.CONFIGURATION_MALFORMED)
    try:
        features = Features.from_json(document["features"])
        policy = Policy.from_json(document["policy"])
        return Configuration(tuple(_bucket(value) for value in buckets), policy, features, log)
    except InvalidInput as error:
        raise Corrupt(
            f"The configuration is malformed: {error.message}", code=error_codes.CONFIGURATION_MALFORMED
        ) from error


def add_bucket(configuration: Configuration, bucket: ConfiguredBucket) -> Configuration:
    """The configuration with one bucket more. Raises `AlreadyExists` for a name that is taken."""
    if any(known.location.name == bucket.location.name for known in configuration.buckets):
        raise AlreadyExists(
            f"The store has a bucket `{bucket.location.name}` already",
            code=error_codes.BUCKET_EXISTS,
            hint="Choose another name; `skyhold bucket list` shows those that are there",
            bucket=bucket.location.name,
        )
    return replace(configuration, buckets=(*configuration.buckets, bucket))


def remove_buckets(
    configuration: Configuration, names: Collection[str], policies: Sequence[Policy] = ()
) -> Configuration:
    """The configuration without these buckets.

    Raises `NotFound`, and `InvalidInput` where none would be left, or where the default policy or one of `policies`
    (those of the repositories) could then never be met.
    """
    for name in names:
        configuration.bucket(name)
    left = tuple(bucket for bucket in configuration.buckets if bucket.location.name not in names)
    if not left:
        raise InvalidInput(
            f"The store has no other bucket than {', '.join(f'`{name}`' for name in names)}; nothing was changed",
            code=error_codes.LAST_BUCKET,
            hint="Add another bucket first",
        )
    for policy in policies:
        check_possible(policy, tuple(bucket.location for bucket in left))
    return replace(configuration, buckets=left)


def replace_bucket(configuration: Configuration, bucket: ConfiguredBucket) -> Configuration:
    """The configuration with the bucket of this name put anew (moved, or re-admitted with a fresh incarnation).

    Raises `NotFound`.
    """
    configuration.bucket(bucket.location.name)
    return replace(
        configuration,
        buckets=tuple(
            bucket if known.location.name == bucket.location.name else known for known in configuration.buckets
        ),
    )


def _bucket(value: object) -> ConfiguredBucket:
    if not isinstance(value, dict) or value.keys() != {"location", "incarnation", "role"}:
        raise InvalidInput("a bucket has not the known fields", code=error_codes.CONFIGURATION_INVALID)
    incarnation, role = value["incarnation"], value["role"]
    if not isinstance(incarnation, str) or not isinstance(role, str):
        raise InvalidInput("a bucket's incarnation or role is no text", code=error_codes.CONFIGURATION_INVALID)
    return ConfiguredBucket(BucketLocation.from_json(value["location"]), incarnation, cast(Role, role))


def _refuse_repeated(what: str, values: Sequence[str]) -> None:
    for value in sorted(set(values)):
        if values.count(value) > 1:
            raise InvalidInput(
                f"Two buckets of the store have the {what} {value}", code=error_codes.CONFIGURATION_INVALID
            )

"""Where the bytes of a repository are stored, how many copies there are, and what a loss would cost. Pure.

A policy has two halves. The *constraint* is which buckets are allowed; a pack is bound to it (its placement class). The
*demand* is how many verified copies at how many providers make a version durable, so that a ref may move to it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final, Literal, cast

import rfc8785

from skyhold import error_codes
from skyhold.buckets.location import BucketLocation
from skyhold.errors import InvalidInput

Delta = Literal["storage", "egress", "off"]

DELTAS: Final[tuple[Delta, ...]] = ("storage", "egress", "off")
_REGION_GLOB: Final = re.compile(r"[A-Za-z0-9._*?\[\]!-]{1,64}")


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy of a repository. Raises `InvalidInput` code `policy_invalid` where a value is out of its range.

    `copies`: verified replicas that make a version durable; None is a majority of the store's buckets.
    `providers`: at how many different providers they must be at least.
    `regions`: shell globs of the allowed regions, case-sensitive, kept sorted; empty allows every bucket. A bucket of
    unknown region is allowed by no glob.
    `delta`: whether to save bytes at rest (`storage`), bytes of a cold pull (`egress`), or to store every chunk whole.
    """

    copies: int | None = None
    providers: int = 1
    regions: tuple[str, ...] = ()
    delta: Delta = "storage"

    def __post_init__(self) -> None:
        if self.copies is not None and not _is_count(self.copies):
            raise _invalid("copies", "a whole number of at least 1, or null for a majority of the buckets", self.copies)
        if not _is_count(self.providers):
            raise _invalid("providers", "a whole number of at least 1", self.providers)
        if not all(isinstance(glob, str) and _REGION_GLOB.fullmatch(glob) for glob in self.regions):
            raise _invalid("regions", "names or globs of regions, such as `eu-*`", list(self.regions))
        if self.delta not in DELTAS:
            raise _invalid("delta", "one of " + ", ".join(f"`{delta}`" for delta in DELTAS), self.delta)
        object.__setattr__(self, "regions", tuple(sorted(set(self.regions))))

    def to_json(self) -> dict[str, object]:
        return {
            "copies": self.copies,
            "providers": self.providers,
            "regions": list(self.regions),
            "delta": self.delta,
        }

    @classmethod
    def from_json(cls, value: object) -> Policy:
        """The policy of a JSON object; a field that is not there has its default. Raises `InvalidInput`."""
        if not isinstance(value, Mapping):
            raise InvalidInput(f"Expected a policy as a JSON object but got {value!r}", code=error_codes.POLICY_INVALID)
        known = {field.name for field in fields(cls)}
        for name in value:
            if name not in known:
                raise InvalidInput(
                    f"Policy has no field {name!r}; it has {', '.join(sorted(known))}", code=error_codes.POLICY_INVALID
                )
        regions = value.get("regions", [])
        if not isinstance(regions, list):
            raise _invalid("regions", "a list", regions)
        return cls(
            copies=value.get("copies"),
            providers=value.get("providers", 1),
            regions=tuple(regions),
            delta=cast(Delta, value.get("delta", "storage")),
        )


@dataclass(frozen=True, slots=True)
class Durability:
    """How far a set of verified replicas meets a policy. `missing` are names of buckets."""

    copies: int
    copies_wanted: int
    providers: int
    providers_wanted: int
    missing: tuple[str, ...]

    @property
    def met(self) -> bool:
        """Whether a ref may move. Replicas that are missing beyond the demand follow later."""
        return self.copies >= self.copies_wanted and self.providers >= self.providers_wanted

    def describe(self) -> str:
        """What is missing, as one sentence without a full stop."""
        wants = []
        if self.copies < self.copies_wanted:
            wants.append(f"{self.copies} of {_count(self.copies_wanted, 'verified copy', 'verified copies')}")
        if self.providers < self.providers_wanted:
            wants.append(f"{self.providers} of {_count(self.providers_wanted, 'provider', 'providers')}")
        if wants:
            return f"Not durable: {' and '.join(wants)}; missing in {', '.join(self.missing)}"
        if self.missing:
            return f"Durable with {_count(self.copies, 'copy', 'copies')}; still to follow: {', '.join(self.missing)}"
        return f"Durable and complete with {_count(self.copies, 'copy', 'copies')}"


def placement_class(policy: Policy) -> str:
    """The class (16 hex) of the packs of a policy: a hash of the constraint on where, and of nothing else, so that a
    bucket that is added in an allowed region joins the class, and repositories of other demands share its packs."""
    return hashlib.sha256(rfc8785.dumps({"regions": list(policy.regions)})).hexdigest()[:16]


def allowed(policy: Policy, buckets: Sequence[BucketLocation]) -> list[BucketLocation]:
    """The buckets, in their order, that the policy allows."""
    return [bucket for bucket in buckets if _is_allowed(policy, bucket)]


def copies_wanted(policy: Policy, buckets: Sequence[BucketLocation]) -> int:
    """The verified copies that make a version durable: those of the policy, or a majority of the store's buckets."""
    return policy.copies if policy.copies is not None else len(buckets) // 2 + 1


def check_possible(policy: Policy, buckets: Sequence[BucketLocation]) -> None:
    """Raises `InvalidInput` code `policy_impossible` where these buckets can never meet the policy."""
    places = allowed(policy, buckets)
    where = f" in regions {', '.join(policy.regions)}" if policy.regions else ""
    wanted = copies_wanted(policy, buckets)
    if wanted > len(places):
        asks = "a majority of the buckets, that is " if policy.copies is None else ""
        raise InvalidInput(
            f"The policy asks for {asks}{_count(wanted, 'copy', 'copies')}{where}, but the store has "
            f"{_count(len(places), 'allowed bucket', 'allowed buckets')} of {len(buckets)}",
            code=error_codes.POLICY_IMPOSSIBLE,
            hint="Add a bucket (`skyhold bucket add`), allow more regions, or ask for fewer copies",
            copies=wanted,
            allowed=[bucket.name for bucket in places],
        )
    providers = sorted({bucket.provider for bucket in places})
    if policy.providers > len(providers):
        raise InvalidInput(
            f"The policy asks for {_count(policy.providers, 'provider', 'providers')}{where}, but the allowed buckets "
            f"have {len(providers)}: {', '.join(providers)}",
            code=error_codes.POLICY_IMPOSSIBLE,
            hint="Add a bucket of another provider (`skyhold bucket add`), or ask for fewer providers",
            providers=policy.providers,
            allowed=[bucket.name for bucket in places],
        )


def durability(policy: Policy, buckets: Sequence[BucketLocation], holding: Collection[str]) -> Durability:
    """The durability of a version whose replicas in the buckets named `holding` are written and verified.

    Replicas outside the allowed buckets count for nothing. Raises `InvalidInput` for a policy that these buckets can
    never meet, so that no caller waits for ever.
    """
    check_possible(policy, buckets)
    places = allowed(policy, buckets)
    held = [bucket for bucket in places if bucket.name in holding]
    return Durability(
        copies=len(held),
        copies_wanted=copies_wanted(policy, buckets),
        providers=len({bucket.provider for bucket in held}),
        providers_wanted=policy.providers,
        missing=tuple(bucket.name for bucket in places if bucket.name not in holding),
    )


def losses_survived(policy: Policy, buckets: Sequence[BucketLocation]) -> tuple[int, int]:
    """How many buckets may be lost, in the worst case: so that a push still succeeds, and so that a version that has no
    more than its durable copies is still read."""
    places = allowed(policy, buckets)
    # The worst loss takes the rarest providers first: with `lost` gone, as few providers are left as can be.
    sizes = sorted(Counter(bucket.provider for bucket in places).values())
    push = 0
    for lost in range(len(places)):
        left, gone = len(places) - lost, lost
        providers = len(sizes)
        for size in sizes:
            if size > gone:
                break
            gone, providers = gone - size, providers - 1
        if left < copies_wanted(policy, buckets) or providers < policy.providers:
            break
        push = lost
    return push, max(copies_wanted(policy, buckets), policy.providers) - 1


def loss_report(buckets: Sequence[BucketLocation], policy: Policy) -> list[str]:
    """What a loss would cost, as sentences. Raises `InvalidInput` for a policy that cannot be met."""
    check_possible(policy, buckets)
    places = allowed(policy, buckets)
    if len(places) == 1:
        return [f"All versions are in bucket `{places[0].name}` alone: if it is lost, they are lost."]
    wanted = copies_wanted(policy, buckets)
    at_providers = f" at {policy.providers} providers or more" if policy.providers > 1 else ""
    push, read = losses_survived(policy, buckets)
    return [
        f"A version is durable once {_count(wanted, 'verified copy is', 'verified copies are')} in {len(places)} "
        f"buckets{at_providers}.",
        _pushing(push, wanted, len(places)),
        _reading(read, len(places)),
        *_provider_losses(places, max(wanted, policy.providers), policy.providers),
    ]


def _pushing(survived: int, wanted: int, total: int) -> str:
    if wanted == total:
        return f"Pushing needs all {total} buckets: while one is away, no version can be pushed."
    if survived == 0:
        return "Pushing needs buckets of enough providers: while the wrong one is away, no version can be pushed."
    return f"Pushing goes on while any {_count(survived, 'bucket is', 'buckets are')} away."


def _reading(survived: int, total: int) -> str:
    if survived == 0:
        return "Reading: a version is lost with the bucket of its only copy, until its other replicas have followed."
    sentence = f"Reading: every durable version survives the loss of any {_count(survived, 'bucket', 'buckets')}"
    if survived == total - 1:
        return sentence + "."
    return sentence + f", and of {total - 1} once its other replicas have followed (`skyhold sync`)."


def _provider_losses(places: Sequence[BucketLocation], copies: int, providers: int) -> list[str]:
    per_provider = Counter(bucket.provider for bucket in places)
    if len(per_provider) == 1:
        return [f"All buckets are of one provider ({places[0].provider}): losing it loses every version."]
    return [
        f"All first copies may be at {provider}: a version whose other replicas have not followed is lost with it; "
        "`--providers 2` prevents that."
        for provider, count in sorted(per_provider.items())
        if providers == 1 and count >= copies
    ]


def _is_allowed(policy: Policy, bucket: BucketLocation) -> bool:
    if not policy.regions:
        return True
    return bucket.region is not None and any(fnmatch.fnmatchcase(bucket.region, glob) for glob in policy.regions)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _invalid(name: str, expected: str, value: object) -> InvalidInput:
    return InvalidInput(
        f"Policy: expected `{name}` to be {expected}, but got {value!r}", code=error_codes.POLICY_INVALID
    )

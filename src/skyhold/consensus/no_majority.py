"""The errors of a register that cannot be decided now: they name the clouds, and say what still works."""

from __future__ import annotations

from collections.abc import Mapping

from skyhold.errors import Corrupt, OutcomeUnknown, PermissionDenied, SkyholdError, Unavailable


def no_majority(key: str, voters: int, errors: Mapping[str, SkyholdError], *, sent: bool) -> SkyholdError:
    """`errors` says why each voter takes no part; `sent`: the change was sent to some voter and may take effect."""
    reasons = "; ".join(f"`{name}`: {error.message}" for name, error in sorted(errors.items()))
    message = (
        f"Register {key} needs {voters // 2 + 1} of its {voters} voters, and {len(errors)} do not take part ({reasons})"
    )
    if sent:
        return OutcomeUnknown(
            f"{message}; the change was sent, and takes effect or not once they do",
            code="no_majority",
            hint="Run the command again when they answer: what took effect is not done twice",
            key=key,
            buckets=sorted(errors),
        )
    if all(isinstance(error, PermissionDenied) for error in errors.values()):
        return PermissionDenied(
            f"{message}; nothing was changed",
            code="no_majority",
            hint="This machine needs credentials for a majority of the voters, under [buckets.NAME] in skyhold.toml or "
            "where each vendor's tools look: see `skyhold doctor`",
            key=key,
            buckets=sorted(errors),
        )
    return Unavailable(
        f"{message}; nothing was changed",
        code="no_majority",
        hint="Look at them with `skyhold doctor`. What is known without them can be read: skyhold pull --stale REF",
        key=key,
        buckets=sorted(errors),
    )


def contended(key: str, *, sent: bool) -> SkyholdError:
    """The error of a change that others were always faster than, until its time was over."""
    message = f"Others changed register {key} again and again, so that this operation did not get its turn in time"
    if sent:
        return OutcomeUnknown(
            f"{message}; it was sent, and may have taken effect",
            code="register_contended",
            hint="Run the command again: what took effect is not done twice",
            key=key,
        )
    return Unavailable(f"{message}; nothing was changed", code="register_contended", hint="Try again", key=key)


def did_not_answer(voter: str) -> SkyholdError:
    return Unavailable(f"Bucket `{voter}` did not answer in time", code="voter_late", bucket=voter)


def out_of_reach(voter: str, key: str) -> Corrupt:
    return Corrupt(
        f"Bucket `{voter}` shows a ballot or a version of register {key} that is far above what a majority of the "
        "voters shows: it was damaged or forged",
        code="voter_out_of_reach",
        hint=f"The store goes on without it. Admit it again: skyhold store voters replace {voter}",
        bucket=voter,
        key=key,
    )


def ballots_exhausted(key: str) -> Corrupt:
    return Corrupt(
        f"The ballots of register {key} are used up: a majority of its voters shows the greatest ones there are",
        code="ballots_exhausted",
        hint="It can be read and not changed. Keep the buckets as they are and ask for help",
        key=key,
    )

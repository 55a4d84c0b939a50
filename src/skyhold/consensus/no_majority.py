"""The errors of a register that cannot be decided: they name the clouds, and what still works."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from skyhold import error_codes
from skyhold.errors import Corrupt, OutcomeUnknown, PermissionDenied, SkyholdError, Unavailable

TO_ADMIT_AGAIN: Final = frozenset(
    {
        error_codes.ACCEPTOR_DAMAGED,
        error_codes.ACCEPTOR_GONE,
        error_codes.VOTER_WENT_BACK,
        error_codes.VOTER_OUT_OF_REACH,
    }
)
"""The codes of a voter that answers, and takes part again once it is admitted anew or another epoch begins."""
UNDOCUMENTED: Final = frozenset(
    {error_codes.STORE_DOCUMENT_FORGED, error_codes.STORE_DOCUMENT_MALFORMED, error_codes.STORE_NOT_FOUND}
)
"""The codes of a bucket whose `store.json` is damaged or gone, so that nothing shows that it is the one that was
admitted."""
NOT_TO_BE_HAD: Final = frozenset(
    {error_codes.REGISTER_DAMAGED, error_codes.REGISTER_LOST, error_codes.REGISTER_ROLLED_BACK}
)
"""The codes of a register whose voters answer, and do not hold what they did: to wait does not help."""


def no_majority(key: str, voters: int, errors: Mapping[str, SkyholdError], *, sent: bool) -> SkyholdError:
    """`errors` has the reason why each voter takes no part; `sent`: the change was sent to some voter and may take
    effect.

    `Corrupt` code `register_damaged` where the voters that answer are enough, but what they hold of this register is
    damaged. Where others that do not answer would make a majority with those that are sound, the hint is to bring these
    back first: they may hold a change that a recovery without them would lose.
    """
    reasons = "; ".join(f"`{name}`: {error.message}" for name, error in sorted(errors.items()))
    message = (
        f"Register {key} needs {voters // 2 + 1} of its {voters} voters, and {len(errors)} do not take part ({reasons})"
    )
    back = [name for name, error in errors.items() if error.code == error_codes.VOTER_WENT_BACK]
    gone = [name for name, error in errors.items() if error.code == error_codes.ACCEPTOR_GONE]
    damaged = [
        name
        for name, error in errors.items()
        if error.code in {error_codes.ACCEPTOR_DAMAGED, error_codes.ACCEPTOR_RETIRED}
    ] + gone
    if (damaged or back) and voters - len(errors) + len(damaged) + len(back) > voters // 2:
        harmed = sorted(damaged + back)
        away = sorted(name for name in errors.keys() - {*harmed} if errors[name].code != error_codes.VOTER_OUT_OF_REACH)
        away = away if voters - len(harmed) > voters // 2 else []
        if back and not damaged and not sent:
            return rolled_back(key, message, back, away=away)
        if len(gone) == len(harmed) and not sent:
            return register_lost(key, buckets=harmed, away=away)
        return _register_damaged(key, message, harmed, away, sent=sent)
    if sent:
        return OutcomeUnknown(
            f"{message}; the change was sent, and takes effect or not once they do",
            code=error_codes.NO_MAJORITY,
            hint="Run the command again when they answer: what took effect is not done twice",
            key=key,
            buckets=sorted(errors),
        )
    return _unanswered(key, message, voters, errors)


def _unanswered(key: str, message: str, voters: int, errors: Mapping[str, SkyholdError]) -> SkyholdError:
    """The error where voters do not answer, or not as those that were admitted. Nothing was sent."""
    untrusted = next((error for error in errors.values() if error.code == error_codes.ENDPOINT_NOT_TRUSTED), None)
    if untrusted is not None:
        return PermissionDenied(
            f"{message}; nothing was changed",
            code=error_codes.NO_MAJORITY,
            hint=f"Without --trust, `skyhold connect` asks about all of them. {untrusted.hint}",
            key=key,
            buckets=sorted(errors),
        )
    if all(isinstance(error, PermissionDenied) for error in errors.values()):
        return PermissionDenied(
            f"{message}; nothing was changed",
            code=error_codes.NO_MAJORITY,
            hint="This machine needs credentials for a majority of the voters, under [buckets.NAME] in skyhold.toml or "
            "where each vendor's tools look: see `skyhold doctor`",
            key=key,
            buckets=sorted(errors),
        )
    undocumented = sorted(name for name, error in errors.items() if error.code in UNDOCUMENTED)
    if undocumented and voters - len(errors) + len(undocumented) > voters // 2:
        return Corrupt(
            f"{message}; nothing was changed",
            code=error_codes.NO_MAJORITY,
            hint=f"Bring back the store.json of {', '.join(f'`{name}`' for name in undocumented)} from a backup. Where "
            "there is none, recover from what else the buckets hold: skyhold recover --minority URL",
            key=key,
            buckets=sorted(errors),
        )
    return Unavailable(
        f"{message}; nothing was changed",
        code=error_codes.NO_MAJORITY,
        hint="See why each of them takes no part: `skyhold doctor`. What is known without them can be read with the "
        "option --stale of the commands that read refs",
        key=key,
        buckets=sorted(errors),
    )


def _register_damaged(key: str, message: str, damaged: list[str], away: list[str], *, sent: bool) -> SkyholdError:
    if sent:
        return OutcomeUnknown(
            f"{message}; the change was sent, and is among what a recovery of this register finds, or lost",
            code=error_codes.NO_MAJORITY,
            hint=_first_those_away(away, f"Bring the register back, then look at it: {way_back(key)}"),
            key=key,
            buckets=damaged,
        )
    return Corrupt(
        f"{message}; nothing was changed",
        code=error_codes.REGISTER_DAMAGED,
        hint=_first_those_away(away, f"See what is left of it, and bring it back: {way_back(key)}"),
        key=key,
        buckets=damaged,
    )


def register_lost(key: str, *, buckets: Collection[str] = (), away: Collection[str] = ()) -> Corrupt:
    """The error of a register that was created and is not there any more; of several voters, at a majority. It is the
    same for a machine that has seen it there, in these buckets, and for a new machine."""
    return Corrupt(
        f"Register {key} was created, and at a majority of the voters it is not there any more: it was deleted; "
        "nothing was changed",
        code=error_codes.REGISTER_LOST,
        hint=_first_those_away(away, f"See what is left of it, and bring it back: {way_back(key)}"),
        key=key,
        buckets=sorted(buckets),
    )


def _first_those_away(away: Collection[str], otherwise: str) -> str:
    if not away:
        return otherwise
    names = ", ".join(f"`{name}`" for name in away)
    return f"First bring back {names}, which may hold intact what others hold damaged. If that cannot be: {otherwise}"


def way_back(key: str) -> str:
    """The command that brings one register back."""
    return f"skyhold recover URL --register {key}"


def acceptor_damaged(voter: str, key: str, error: SkyholdError) -> Corrupt:
    """What a voter holds of a register is not what was stored there. It may have promised and accepted anything, so it
    takes no part: it is never taken for one that holds nothing."""
    return Corrupt(
        f"What bucket `{voter}` holds of register {key} is damaged: {error.message}",
        code=error_codes.ACCEPTOR_DAMAGED,
        hint=f"Where the other voters are sound: skyhold store voters replace {voter}",
        bucket=voter,
        key=key,
    )


def acceptor_gone(voter: str, key: str) -> Corrupt:
    """What a voter promised is lost with its object, so it is no acceptor any more, nor one that holds nothing."""
    return Corrupt(
        f"Bucket `{voter}` held register {key} when this machine looked last, and it is not there any more",
        code=error_codes.ACCEPTOR_GONE,
        hint=f"Where the other voters are sound: skyhold store voters replace {voter}",
        bucket=voter,
        key=key,
    )


def went_back(voter: str, key: str) -> Corrupt:
    """A voter has promised less than it was seen to have: what it promised since is forgotten, so it takes no part."""
    return Corrupt(
        f"Bucket `{voter}` shows an older state of register {key} than this machine saw there before: it was restored "
        "or replayed, or answers from a stale copy",
        code=error_codes.VOTER_WENT_BACK,
        hint=f"Admit it again: skyhold store voters replace {voter}",
        bucket=voter,
        key=key,
    )


def acceptor_retired(voter: str, key: str) -> Corrupt:
    """A recovery of this register has begun and is not complete."""
    return Corrupt(
        f"Register {key} was retired in bucket `{voter}` by a recovery that is not complete",
        code=error_codes.ACCEPTOR_RETIRED,
        hint=f"Run it again: {way_back(key)}",
        bucket=voter,
        key=key,
    )


def rolled_back(key: str, why: str, buckets: Collection[str], *, away: Collection[str] = ()) -> Corrupt:
    """The error of a register of which voters show an older state than this machine has seen: to take it for the newest
    would silently lose what was acknowledged since."""
    return Corrupt(
        f"Register {key} was rolled back in {', '.join(f'`{name}`' for name in sorted(buckets))}: {why}",
        code=error_codes.REGISTER_ROLLED_BACK,
        hint=_first_those_away(
            away,
            "Bring the buckets back to what they held, or take the newest that any of them holds: "
            f"`{way_back(key)}`. If the store was recovered on purpose: skyhold connect URL --accept-rollback",
        ),
        key=key,
        buckets=sorted(buckets),
    )


def contended(key: str, *, sent: bool) -> SkyholdError:
    """The error of a change that lost every race against other clients until its deadline."""
    message = (
        f"Other clients changed register {key} again and again, and this operation did not win before its deadline"
    )
    if sent:
        return OutcomeUnknown(
            f"{message}; it was sent, and may have taken effect",
            code=error_codes.REGISTER_CONTENDED,
            hint="Run the command again: what took effect is not done twice",
            key=key,
        )
    return Unavailable(
        f"{message}; nothing was changed", code=error_codes.REGISTER_CONTENDED, hint="Try again", key=key
    )


def did_not_answer(voter: str) -> SkyholdError:
    return Unavailable(f"Bucket `{voter}` did not answer in time", code=error_codes.VOTER_LATE, bucket=voter)


def out_of_reach(voter: str, key: str) -> Corrupt:
    return Corrupt(
        f"Bucket `{voter}` shows a ballot or a version of register {key} that is far above what a majority of the "
        "voters shows: it was damaged or forged",
        code=error_codes.VOTER_OUT_OF_REACH,
        hint=f"The store works without it. Admit it again: skyhold store voters replace {voter}",
        bucket=voter,
        key=key,
    )


def ballots_exhausted(key: str) -> Corrupt:
    return Corrupt(
        f"The ballots of register {key} are used up: a majority of its voters shows the greatest ones there are",
        code=error_codes.BALLOTS_EXHAUSTED,
        hint="It can be read and not changed. Keep the buckets as they are and ask for help",
        key=key,
    )

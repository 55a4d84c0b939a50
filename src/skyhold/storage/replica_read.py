"""Reading one object from several buckets: which of them is asked next, and when; and the error where none returns it.
Pure: times are arguments, answers are events.

Buckets are asked in order of trust. One that fails is followed by the next at once. When one has not answered for a
while (a stall), the next is asked as well, and the first answer wins (hedged requests; Dean and Barroso, "The Tail at
Scale", 2013).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from skyhold import error_codes
from skyhold.errors import Corrupt, SkyholdError, Unavailable, reasons_of


@dataclass(frozen=True, slots=True)
class ReadChoice:
    """The state of one read: the buckets that are not asked yet, in order of trust, those that are in flight, when this
    state is checked again, and the deadline of the read. Times are of one clock, in seconds."""

    waiting: tuple[str, ...]
    running: frozenset[str]
    look_again_s: float
    give_up_s: float


@dataclass(frozen=True, slots=True)
class ReadStep:
    """The next action: the bucket to ask now, if any, those that have stalled, and whether the read has ended. If it
    has not, the next event is an answer, or the time `choice.look_again_s`."""

    choice: ReadChoice
    ask: str | None = None
    stalled: frozenset[str] = frozenset()
    over: bool = False


def begin_read(names: Sequence[str], now_s: float, *, stall_s: float, give_up_s: float) -> ReadStep:
    """The first step of a read of these buckets, in order of trust. Without any it is over."""
    return _ask_next(ReadChoice(tuple(names), frozenset(), now_s, give_up_s), now_s, stall_s)


def after_failures(choice: ReadChoice, failed: Collection[str], now_s: float, *, stall_s: float) -> ReadStep:
    """The step after some of the buckets in flight have failed."""
    return _ask_next(
        ReadChoice(choice.waiting, choice.running - set(failed), choice.look_again_s, choice.give_up_s), now_s, stall_s
    )


def after_silence(choice: ReadChoice, now_s: float, *, stall_s: float) -> ReadStep:
    """The step after no bucket has answered until now. Before the time to look again, nothing follows."""
    if now_s < choice.look_again_s:
        return ReadStep(choice)
    if not choice.waiting:
        return ReadStep(choice, stalled=choice.running, over=True)
    step = _ask_next(choice, now_s, stall_s)
    return ReadStep(step.choice, step.ask, choice.running, step.over)


def _ask_next(choice: ReadChoice, now_s: float, stall_s: float) -> ReadStep:
    if now_s >= choice.give_up_s or not (choice.waiting or choice.running):
        return ReadStep(choice, over=True)
    if not choice.waiting:
        return ReadStep(ReadChoice((), choice.running, choice.give_up_s, choice.give_up_s))
    name, *waiting = choice.waiting
    look_again_s = min(now_s + stall_s, choice.give_up_s) if waiting else choice.give_up_s
    return ReadStep(ReadChoice(tuple(waiting), choice.running | {name}, look_again_s, choice.give_up_s), name)


_LOST: Final = frozenset({error_codes.OBJECT_NOT_FOUND, error_codes.RANGE_NOT_SATISFIABLE})
"""Every object that is read here is named by a document of the store: if it is missing, or shorter than the document
states, it was lost. To the caller that is damage, not a name that does not exist or a wrong request."""


def no_bucket_serves(what: str, names: Sequence[str], errors: Mapping[str, SkyholdError]) -> SkyholdError:
    """The error of a read that failed in all buckets of these names, by what each raised."""
    only = errors.get(names[0]) if len(names) == 1 else None
    if only is not None and only.code not in _LOST and (only.hint or not isinstance(only, Unavailable)):
        return only
    reasons = reasons_of(errors).replace(what[:1].upper() + what[1:], "it") or "no answer in time"
    codes = {error_codes.OBJECT_LOST if error.code in _LOST else error.code for error in errors.values()}
    kind = _kind_of(names, errors)
    return kind(
        f"No bucket returns {what} ({reasons})" if only is None else only.message,
        code=codes.pop() if len(codes) == 1 else error_codes.NO_REPLICA,
        hint="Try again; `skyhold status` shows which buckets answer"
        if kind is Unavailable
        else "Mend it, or see what is lost with it: skyhold repair",
        buckets=sorted(errors),
    )


def _kind_of(names: Sequence[str], errors: Mapping[str, SkyholdError]) -> type[SkyholdError]:
    """`Corrupt` where it is damaged in a bucket, or all have lost it; a bucket that does not answer may have it."""
    if any(isinstance(error, Corrupt) or error.code == error_codes.RANGE_NOT_SATISFIABLE for error in errors.values()):
        return Corrupt
    kinds = {Corrupt if error.code in _LOST else type(error) for error in errors.values()}
    return kinds.pop() if len(kinds) == 1 and len(errors) == len(names) else Unavailable

"""Retiring a register from its epoch, where no majority of its voters holds it intact: it then continues in the next.

A damaged acceptor may have promised and accepted anything, so nothing can be decided through it, and to write over it
would be to make it forget. To *retire* an acceptor is safe whatever it held: it takes no part any more, as if it never
answered again. Once a majority of the voters is retired the register can never be decided again in this epoch, by any
client that still works in it, and whether or not damaged bytes turn out to have been a fault of reading. Every change
that was chosen before had been accepted by a majority, so by at least one of the retired: it is found there unless all
of these are damaged. The register continues with the newest value that they held intact (`carrying`).

A put that retires is conditional on what was found, so no vote falls between the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from skyhold import error_codes
from skyhold.codec.frame import FrameKeys
from skyhold.consensus.acceptor import AcceptorState, Ballot, beyond_reach
from skyhold.consensus.acceptor_object import AcceptorObject, decode_acceptor, encode_acceptor, object_key
from skyhold.consensus.no_majority import contended, out_of_reach
from skyhold.consensus.operation import Kept, version_of
from skyhold.consensus.parallel import at_once
from skyhold.consensus.voter import Voter
from skyhold.errors import Conflict, Corrupt, OutcomeUnknown, PermissionDenied, SkyholdError

ATTEMPTS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Holding:
    """What one voter has of a register; no object where all fields are None. `held` is what it holds intact, `damage`
    what is wrong with its object, and `error` why its state is unknown."""

    voter: str
    tag: str | None = None
    held: AcceptorObject | None = None
    damage: str | None = None
    error: SkyholdError | None = None

    @property
    def retired(self) -> bool:
        return self.held is not None and self.held.retired


@dataclass(frozen=True, slots=True)
class Acceptors:
    """The acceptors of the registers of one epoch, as objects."""

    voters: Sequence[Voter]
    epoch: int
    keys: FrameKeys

    def examine(self, key: str) -> list[Holding]:
        """What each voter has of a register. A ballot or a version that no honest acceptor can have counts as damaged:
        the next epoch would continue from it."""
        holdings = at_once(lambda voter: self._look(voter, key), self.voters, "examine")
        states = {
            holding.voter: AcceptorState() if holding.held is None else holding.held.state
            for holding in holdings
            if holding.error is None
        }
        far = beyond_reach(states, len(self.voters), version_of)
        return [_forged(holding, key) if holding.voter in far else holding for holding in holdings]

    def retire(self, key: str, instead: Kept, proposer: str) -> list[Holding]:
        """Retire the acceptors of all voters that answer; returns what each has then. `instead` is written where
        nothing intact was: the register continues with it if no voter holds anything intact."""
        return at_once(lambda voter: self._retire(voter, key, instead, proposer), self.voters, "retire")

    def salvaged(self, key: str) -> Kept | None:
        """What a retired register continues with; None where it is not retired at a majority."""
        return newest_held(self.examine(key), len(self.voters))

    def _look(self, voter: Voter, key: str) -> Holding:
        tagged, damage = None, None
        try:
            tagged = voter.bucket.read_tagged(object_key(self.epoch, key))
        except SkyholdError as error:
            if error.code == error_codes.OBJECT_TOO_LARGE:
                damage = error.message
            elif error.code != error_codes.OBJECT_NOT_FOUND:
                return Holding(voter.name, error=error)
        try:
            voter.verify()  # after it: what is absent counts, so it has to be the bucket that was admitted
        except SkyholdError as error:
            return Holding(voter.name, error=error)
        if tagged is None:
            return Holding(voter.name, damage=damage)
        try:
            held = decode_acceptor(tagged.body, self.epoch, key, voter.incarnation, self.keys)
        except (Corrupt, PermissionDenied) as error:
            return Holding(voter.name, tagged.tag, damage=error.message)
        return Holding(voter.name, tagged.tag, held)

    def _retire(self, voter: Voter, key: str, instead: Kept, proposer: str) -> Holding:
        first = Ballot(1, proposer) if instead else None
        blank = AcceptorObject(AcceptorState(first, first, instead) if first else AcceptorState(), 0, "", "")
        for _ in range(ATTEMPTS_MAX):
            found = self._look(voter, key)
            if found.error is not None or found.retired:
                return found
            body = encode_acceptor(
                replace(found.held or blank, retired=True), self.epoch, key, voter.incarnation, self.keys
            )
            name = object_key(self.epoch, key)
            try:
                if found.damage is not None and found.tag is None:  # so large that it was not read
                    voter.bucket.write(name, body)
                else:
                    voter.bucket.write_if(name, body, expected_tag=found.tag)
            except (Conflict, OutcomeUnknown):
                continue  # another client was faster, or an earlier put of ours: the read above shows which
            except SkyholdError as error:
                return Holding(voter.name, error=error)
        return Holding(voter.name, error=contended(key, sent=False))


def _forged(holding: Holding, key: str) -> Holding:
    """Nothing of what it holds is used, but a retired acceptor it is."""
    held = replace(holding.held, state=AcceptorState()) if holding.held is not None and holding.retired else None
    return replace(holding, held=held, damage=out_of_reach(holding.voter, key).message)


def newest_held(holdings: Sequence[Holding], voters: int) -> Kept | None:
    """The value under the greatest ballot that the retired acceptors accepted, if they are a majority and have one."""
    retired = [holding.held for holding in holdings if holding.held is not None and holding.retired]
    return newest_of(retired) if len(retired) > voters // 2 else None


def newest_of(held: Iterable[AcceptorObject]) -> Kept | None:
    """The value under the greatest ballot that was accepted, or None where none was."""
    newest = max(held, key=lambda found: found.state.accepted, default=None)
    return newest.state.value or None if newest is not None else None

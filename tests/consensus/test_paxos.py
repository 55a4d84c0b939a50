"""The rules of the bucket engine, without input or output."""

from __future__ import annotations

import pytest

from skyhold.consensus.acceptor import AcceptorState, Ballot, accept, promise, unanimous
from skyhold.consensus.paxos import (
    REREADS_MAX,
    Get,
    Lost,
    Phase,
    Proposal,
    Put,
    Refused,
    Round,
    Seen,
    Silent,
    adopted,
    begin,
    step,
)
from skyhold.errors import Corrupt, Unavailable

ONE, TWO, THREE = Ballot(1, "a"), Ballot(2, "a"), Ballot(3, "b")
EMPTY: AcceptorState[str] = AcceptorState()


def prepared(voters: str = "ABC") -> Round[str]:
    """A round at ballot TWO that A and B have promised."""
    round_, _ = begin(TWO, THREE, dict.fromkeys(voters))
    for voter in voters[: len(voters) // 2 + 1]:
        round_, _ = step(round_, Seen(voter, "t", AcceptorState(TWO)))
    assert round_.phase is Phase.PREPARED
    return round_


def test_acceptor_promises_and_accepts_nothing_below_its_promise() -> None:
    promised = promise(EMPTY, TWO)
    assert promised == AcceptorState(TWO)
    assert promise(promised, ONE) is None
    assert accept(promised, ONE, "x", TWO) is None
    assert accept(promised, TWO, "x", THREE) == AcceptorState(THREE, TWO, "x")


def test_greater_counter_wins_and_the_proposer_breaks_a_tie() -> None:
    assert Ballot(2, "a") > Ballot(1, "b") > Ballot(1, "a")


def test_round_reads_prepares_proposes_and_decides() -> None:
    round_, effects = begin(TWO, THREE, dict.fromkeys("ABC"))
    assert effects == (Get("A"), Get("B"), Get("C"))
    round_, effects = step(round_, Seen("A", None, EMPTY))
    assert effects == (Put("A", None, AcceptorState(TWO)),)
    round_, effects = step(round_, Seen("A", "1", AcceptorState(TWO)))
    assert (round_.phase, effects) == (Phase.PREPARE, ())
    round_, _ = step(round_, Seen("B", "7", AcceptorState(ONE, ONE, "old")))
    round_, _ = step(round_, Seen("B", "8", AcceptorState(TWO, ONE, "old")))
    assert round_.phase is Phase.PREPARED
    assert adopted(round_) == "old"
    round_, effects = step(round_, Proposal("new"))
    wanted = AcceptorState(THREE, TWO, "new")
    assert effects == (Put("A", "1", wanted), Put("B", "8", wanted))
    round_, _ = step(round_, Seen("A", "2", wanted))
    assert round_.phase is Phase.PROPOSE
    round_, _ = step(round_, Seen("B", "9", wanted))
    assert round_.phase is Phase.DECIDED


def test_acceptor_that_is_found_absent_after_the_value_was_proposed_promises_before_it_accepts() -> None:
    round_, _ = begin(TWO, THREE, dict.fromkeys("ABC"))
    for voter in "AB":
        round_, _ = step(round_, Seen(voter, "t", AcceptorState(TWO)))
    round_, _ = step(round_, Proposal("new"))
    round_, effects = step(round_, Seen("C", None, EMPTY))
    assert effects == (Put("C", None, AcceptorState(TWO)),)
    round_, effects = step(round_, Seen("C", "1", AcceptorState(TWO)))
    assert effects == (Put("C", "1", AcceptorState(THREE, TWO, "new")),)


def test_round_whose_ballot_a_majority_has_promised_begins_prepared() -> None:
    known = {
        "A": Seen("A", "1", AcceptorState(TWO, ONE, "v")),
        "B": Seen("B", "1", AcceptorState(TWO, ONE, "v")),
        "C": None,
    }
    round_, effects = begin(TWO, THREE, known)
    assert (round_.phase, effects) == (Phase.PREPARED, ())
    assert adopted(round_) == "v"


def test_round_is_preempted_when_no_majority_is_left_below_a_greater_promise() -> None:
    round_, _ = begin(TWO, THREE, dict.fromkeys("ABC"))
    round_, _ = step(round_, Seen("A", "1", AcceptorState(THREE)))
    assert round_.phase is Phase.PREPARE
    round_, _ = step(round_, Seen("B", "1", AcceptorState(THREE)))
    assert round_.phase is Phase.PREEMPTED
    assert round_.greatest == THREE


def test_ballot_is_disputed_where_the_greatest_one_was_only_prepared() -> None:
    over, rival = Ballot(70, "b"), Ballot(90, "c")
    accepted = AcceptorState(Ballot(71, "b"), over, "v")
    round_, _ = begin(TWO, THREE, dict.fromkeys("ABC"))
    round_, _ = step(round_, Seen("A", "1", AcceptorState(over, ONE, "u")))  # the accept of that round never came here
    round_, _ = step(round_, Seen("B", "1", accepted))
    assert (round_.phase, round_.disputed, round_.written) == (Phase.PREEMPTED, False, False)
    round_, _ = begin(TWO, THREE, dict.fromkeys("ABC"))
    round_, _ = step(round_, Seen("A", "1", AcceptorState(rival, over, "v")))
    round_, _ = step(round_, Seen("B", "1", accepted))
    assert (round_.phase, round_.disputed) == (Phase.PREEMPTED, True)


def test_lost_reply_is_no_vote_until_it_is_read_back() -> None:
    round_, _ = step(prepared(), Proposal("new"))
    round_, effects = step(round_, Lost("A"))
    assert effects == (Get("A"),)
    assert round_.phase is Phase.PROPOSE
    round_, effects = step(round_, Seen("A", "2", AcceptorState(THREE, TWO, "new")))
    round_, _ = step(round_, Seen("B", "2", AcceptorState(THREE, TWO, "new")))
    assert round_.phase is Phase.DECIDED


def test_value_that_every_voter_provably_lacks_can_never_be_chosen() -> None:
    round_, _ = step(prepared(), Proposal("new"))
    assert round_.exposed == {"A", "B"}
    round_, _ = step(round_, Refused("A"))
    round_, _ = step(round_, Seen("A", "2", AcceptorState(Ballot(9, "c"), ONE, "old")))
    round_, _ = step(round_, Silent("B", Unavailable("throttled"), unsent=True))
    assert round_.exposed == set()


@pytest.mark.parametrize(
    "read_back",
    [
        Seen("A", "2", AcceptorState(THREE, TWO, "new")),
        Seen("A", "3", AcceptorState(Ballot(9, "c"), TWO, "new")),
        Seen("A", "4", AcceptorState(Ballot(9, "c"), Ballot(8, "c"), "what may be made of it")),
        Silent("A", Unavailable("away")),
    ],
)
def test_refused_put_may_have_taken_effect_until_it_is_read_back(read_back: Seen[str] | Silent) -> None:
    """A proxy sent it twice, and the second was refused because of the first (seed 22851 of the simulation)."""
    round_, _ = step(prepared(), Proposal("new"))
    round_, effects = step(round_, Refused("A"))
    assert effects == (Get("A"),)
    assert "A" in round_.exposed
    round_, _ = step(round_, read_back)
    assert "A" in round_.exposed


@pytest.mark.parametrize("later", [Refused("A"), Silent("A", Unavailable("away"), unsent=True)])
def test_value_whose_put_was_lost_stays_exposed_whatever_a_second_put_meets(later: Refused | Silent) -> None:
    round_, _ = step(prepared(), Proposal("new"))
    round_, _ = step(round_, Lost("A"))
    round_, effects = step(round_, Seen("A", "t", AcceptorState(TWO)))
    assert [type(effect) for effect in effects] == [Put]
    round_, _ = step(round_, later)
    assert "A" in round_.exposed


def test_another_value_under_our_ballot_is_not_our_vote() -> None:
    round_, _ = step(prepared(), Proposal("new"))
    for voter in "AB":
        round_, _ = step(round_, Seen(voter, "2", AcceptorState(THREE, TWO, "of a twin")))
    assert round_.phase is Phase.PREEMPTED


def test_two_values_under_one_ballot_are_an_error() -> None:
    round_, _ = begin(TWO, THREE, dict.fromkeys("ABC"))
    round_, _ = step(round_, Seen("A", "1", AcceptorState(TWO, ONE, "x")))
    round_, _ = step(round_, Seen("B", "1", AcceptorState(TWO, ONE, "y")))
    with pytest.raises(Corrupt) as caught:
        adopted(round_)
    assert caught.value.code == "ballot_shared"


def test_one_voter_is_a_plain_compare_and_set() -> None:
    round_, _ = begin(TWO, THREE, {"A": None}, plain=True)
    round_, effects = step(round_, Seen("A", "1", AcceptorState(ONE, ONE, "old")))
    assert (round_.phase, effects) == (Phase.PREPARED, ())
    assert adopted(round_) == "old"
    round_, effects = step(round_, Proposal("new"))
    assert effects == (Put("A", "1", AcceptorState(THREE, TWO, "new")),)
    round_, _ = step(round_, Refused("A"))
    assert round_.phase is Phase.PREEMPTED


def test_only_voter_is_created_with_a_promise_and_gets_the_value_then() -> None:
    round_, _ = begin(TWO, THREE, {"A": None}, plain=True)
    round_, _ = step(round_, Seen("A", None, EMPTY))
    round_, effects = step(round_, Proposal("new"))
    assert effects == (Put("A", None, AcceptorState(TWO)),)
    assert not round_.exposed
    round_, effects = step(round_, Seen("A", "1", AcceptorState(TWO)))
    assert round_.exposed == {"A"}
    assert effects == (Put("A", "1", AcceptorState(THREE, TWO, "new")),)
    round_, _ = step(round_, Seen("A", "2", AcceptorState(THREE, TWO, "new")))
    assert round_.phase is Phase.DECIDED


@pytest.mark.parametrize("instead", [EMPTY, AcceptorState(ONE), AcceptorState(THREE), AcceptorState(THREE, THREE, "x")])
def test_only_voter_that_shows_another_state_than_the_created_one_ends_the_round(instead: AcceptorState[str]) -> None:
    round_, _ = begin(TWO, THREE, {"A": None}, plain=True)
    round_, _ = step(round_, Seen("A", None, EMPTY))
    round_, _ = step(round_, Proposal("new"))
    round_, effects = step(round_, Lost("A"))
    assert effects == (Get("A"),)
    round_, effects = step(round_, Seen("A", "1", instead))
    assert (round_.phase, effects) == (Phase.PREEMPTED, ())


def test_with_one_voter_an_answer_of_before_the_round_is_read_again() -> None:
    round_, effects = begin(TWO, THREE, {"A": None}, busy={"A"}, plain=True)
    assert effects == ()
    round_, effects = step(round_, Seen("A", "1", EMPTY))
    assert (round_.phase, effects) == (Phase.PREPARE, (Get("A"),))


def test_bucket_that_refuses_every_put_takes_no_further_part() -> None:
    round_, _ = begin(TWO, THREE, dict.fromkeys("ABC"))
    for _ in range(REREADS_MAX + 1):
        round_, effects = step(round_, Seen("A", "1", EMPTY))
        assert effects == (Put("A", "1", AcceptorState(TWO)),)
        round_, effects = step(round_, Refused("A"))
    assert effects == ()
    assert round_.seats["A"].error is not None


def test_read_needs_one_ballot_at_a_majority() -> None:
    new, old = AcceptorState(TWO, TWO, "new"), AcceptorState(TWO, ONE, "old")
    assert unanimous({"A": new, "B": new, "C": old}, 3) == new
    assert unanimous({"A": new, "B": old}, 3) is None
    assert unanimous({"A": new}, 3) is None
    assert unanimous({"A": AcceptorState(TWO), "B": EMPTY}, 3) is not None

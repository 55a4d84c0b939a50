-------------------------------- MODULE Mistakes --------------------------------
(* Rules that look right and are not. Each file in mistakes/ replaces one rule of BucketRegister by one of these, and
   TLC must find what goes wrong. *)
EXTENDS BucketRegister

\* "The condition of the put is enough": several voters without promises.
NoPromises(epoch) == TRUE

\* A change that is refused is answered when the promises are there.
UnlessRefused(c, value) == ~(c.job = "change" /\ ~value.sealed /\ ~Holds(value, c.op))

\* A read believes the greatest ballot that it saw at a majority.
Newest(epoch, seen) ==
    IF 2 * Cardinality(seen) > Cardinality(Voters(epoch))
    THEN {held \in {s.held : s \in seen} : \A s \in seen : s.held.accepted <= held.accepted}
    ELSE {}

\* The ballots lie in the metadata of the object, which its tag does not cover. Tags come back then.
TagOfValue(held) == held.value
AllOf(puts, objects) == puts

\* A value keeps the id of its newest change alone.
IsNewest(value, op) == value.chain # <<>> /\ value.chain[Len(value.chain)] = op

\* A client library repeats a put whose reply was lost, and reports that it was refused.
LostIsRefused == FALSE

\* A client that knows the next configuration works there at once: an absent register is a new one.
AtOnce == TRUE

\* `config` is restored before the registers are.
ConfigFirst(c) == c.job \in {"begin", "restore"}

\* A seal is in force once one voter has it.
OneForASeal(c, voters) == c.job = "seal" \/ 2 * Cardinality(voters) > Cardinality(Voters(c.epoch))

\* A seal does not stop a change.
AlsoAfterASeal(value, expected) == Version(value) = expected

==================================================================================

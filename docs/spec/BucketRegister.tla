----------------------------- MODULE BucketRegister -----------------------------
(* One register of the engine `buckets`, from its first epoch into the next: CASPaxos with passive acceptors.

   An acceptor is an object in a bucket, which only stores. Whoever read it computes what the acceptor of the paper
   would answer, and replaces it by a put that takes effect only if the object still has the tag that was read.

   A put that is answered in its own round is one atomic step here (Promise, Accept): its condition makes the read, the
   computation and the put one. A put that nobody waits for any more (late, or its reply lost, or its sender dead) is
   left in `inflight` (Delay) and takes effect whenever its condition holds (Arrive), as often as it likes. A put that
   is lost, and one that is refused, changes nothing, so neither is a step.

   docs/spec/README.md says what is modelled and what is not, and how the names map to the source. *)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    OldVoter, NewVoter,   \* The voters of the two epochs; {} as NewVoter: the register is never sealed.
    Clients,              \* How many proposers there can be, one after the other or at once: at most 9.
    Op,                   \* The ids of changes (compare-and-sets).
    Counters,             \* The greatest counter of a ballot.
    Reads, Crashes,       \* How many reads may begin, and proposers may crash, in one behaviour.
    InFlight              \* How many late puts may be on their way at a time.

Client == 1 .. Clients
Epoch == IF NewVoter = {} THEN {1} ELSE {1, 2}
Voters(epoch) == IF epoch = 1 THEN OldVoter ELSE NewVoter
Objects == UNION {{epoch} \X Voters(epoch) : epoch \in Epoch}

\* A ballot is a counter and a proposer, ordered by the counter first; as a number it can be read: 21 is (2, client 1).
NoBallot == 0
Ballot(counter, p) == 10 * counter + p
Counter(ballot) == ballot \div 10
Following(ballot) == ballot + 10

\* A value is the changes of a register in order; its version is how many. A seal is a change of a register that exists.
TheSeal == "seal"
Absent == [chain |-> <<>>, sealed |-> FALSE]
Version(value) == Len(value.chain)
Holds(value, op) == \E i \in 1 .. Len(value.chain) : value.chain[i] = op
Position(value, op) == CHOOSE i \in 1 .. Len(value.chain) : value.chain[i] = op
Extends(chain, earlier) == Len(earlier) <= Len(chain) /\ SubSeq(chain, 1, Len(earlier)) = earlier
Greater(a, b) == IF a >= b THEN a ELSE b

NoOp == "none"
Empty == [promised |-> NoBallot, accepted |-> NoBallot, value |-> Absent]

VARIABLES
    object,      \* What each bucket holds of the register, by epoch and voter.
    inflight,    \* Puts that may still arrive: [at, before, after].
    client,      \* What each proposer knows and does.
    begun,       \* Whether the second epoch has begun: its register `config` exists.
    operation,   \* What became of each change, as its user knows it; `exposed` are the epochs in which it was sent to
                 \* some voter and may take effect (`begin`, a ghost, is `floor` as it was when it was asked for).
    readsLeft,
    accepts,     \* Ghost: which acceptor accepted what under which ballot, ever.
    floor,       \* Ghost: the greatest version that anybody was told.
    stale        \* Ghost: whether anybody was told a version below one that was told before they asked.

vars == <<object, inflight, client, begun, operation, readsLeft, accepts, floor, stale>>

Idle(epoch, counter) ==
    [job |-> "idle", op |-> NoOp, epoch |-> epoch, counter |-> counter, phase |-> "none", ballot |-> NoBallot,
     value |-> Absent, seen |-> {}, votes |-> {}, warm |-> FALSE, begin |-> 0, carried |-> <<>>]

Init ==
    /\ object = [place \in Objects |-> Empty]
    /\ inflight = {}
    /\ client = [p \in Client |-> Idle(1, [epoch \in Epoch |-> 0])]
    /\ begun = FALSE
    /\ operation = [op \in Op |-> [status |-> "new", expected |-> 0, begin |-> 0, exposed |-> {}]]
    /\ readsLeft = Reads
    /\ accepts = {}
    /\ floor = 0
    /\ stale = FALSE

------------------------------------------------------------------------------
(* The rules. Mistakes.tla replaces one of them by a wrong one at a time, and TLC must find out. *)

\* The tag of an object covers its whole body.
Tag(held) == <<held.promised, held.accepted, held.value>>

\* An object never takes an earlier state again (NewerOnly), so a put whose tag is gone is a put that is lost.
Alive(puts, objects) == {put \in puts : Tag(objects[put.at]) = Tag(put.before)}

\* One voter is a plain compare-and-set: the condition of the put stands for a promise. Several voters need promises.
Plain(epoch) == Cardinality(Voters(epoch)) = 1

\* The voters that have accepted suffice.
Enough(c, voters) == 2 * Cardinality(voters) > Cardinality(Voters(c.epoch))

\* Whatever a round found out, its value is chosen before anybody is told.
MustBeChosen(c, value) == TRUE

\* Whether what a read round saw can be answered, and what it is: a majority shows one accepted ballot.
Unanimous(epoch, seen) ==
    {held \in {s.held : s \in seen} :
        2 * Cardinality({s \in seen : s.held.accepted = held.accepted}) > Cardinality(Voters(epoch))}

\* A change whose id the value holds has taken effect, and is not done again.
IsKnown(value, op) == Holds(value, op)

\* After a seal, nothing changes.
IsOpen(value, expected) == ~value.sealed /\ Version(value) = expected

\* Nobody works in an epoch that has not begun.
MayEnter == begun

\* An epoch begins when its registers are restored.
MayBegin(c) == c.job = "begin"

\* A put whose reply is lost may have taken effect, or may still.
LostMayTakeEffect == TRUE

------------------------------------------------------------------------------
(* What an operation makes of a value (operation.py). *)

Sealed(value) ==
    [chain |-> IF value.chain = <<>> THEN <<>> ELSE Append(value.chain, TheSeal), sealed |-> TRUE]

Applied(c, value) ==
    CASE c.job = "change" ->
            IF ~IsKnown(value, c.op) /\ IsOpen(value, operation[c.op].expected)
            THEN [value EXCEPT !.chain = Append(@, c.op)] ELSE value
      [] c.job = "seal" -> IF value.sealed THEN value ELSE Sealed(value)
      [] c.job = "restore" -> IF value = Absent THEN [chain |-> c.carried, sealed |-> FALSE] ELSE value
      [] OTHER -> value   \* "read" and "outcome" settle what is under way.

------------------------------------------------------------------------------
(* Answers. `least` is the least version that is right: what was told before the question. *)

Told(version, least) ==
    /\ floor' = Greater(floor, version)
    /\ stale' = (stale \/ version < least)

Nothing == UNCHANGED <<floor, stale>>

Free(c) == [Idle(c.epoch, c.counter) EXCEPT !.ballot = c.ballot, !.value = c.value, !.warm = c.warm]
Becomes(p, c) == client' = [client EXCEPT ![p] = c]
Status(op, status) == operation' = [operation EXCEPT ![op].status = status]

\* A seal was met: go on in the next epoch (Follow, below).
Met(p, c, chain) ==
    Becomes(p, [Idle(1, c.counter) EXCEPT !.job = "follow", !.carried = chain, !.begin = c.begin])

\* The job of `c` ends with this value.
Finished(p, c, value) ==
    CASE c.job = "change" /\ IsKnown(value, c.op) ->
            /\ Becomes(p, Free(c))
            /\ Status(c.op, "done")
            /\ Told(Position(value, c.op), operation[c.op].begin + 1)
      [] c.job = "change" /\ ~IsKnown(value, c.op) /\ value.sealed ->
            /\ Met(p, c, value.chain)
            /\ operation' = [operation EXCEPT ![c.op].status = "again", ![c.op].exposed = @ \ {c.epoch}]
            /\ Nothing
      [] c.job = "change" /\ ~IsKnown(value, c.op) /\ ~value.sealed ->
            /\ Becomes(p, Free(c))
            /\ Status(c.op, "refused")
            /\ Told(Version(value), operation[c.op].begin)
      [] c.job = "outcome" /\ Holds(value, c.op) ->
            /\ Becomes(p, Free(c))
            /\ Status(c.op, "done")
            /\ Told(Position(value, c.op), operation[c.op].begin + 1)
      [] c.job = "outcome" /\ ~Holds(value, c.op) /\ value.sealed ->   \* it may be in the next epoch
            Met(p, c, value.chain) /\ Status(c.op, "unknown") /\ Nothing
      [] c.job = "outcome" /\ ~Holds(value, c.op) /\ ~value.sealed ->
            Becomes(p, Free(c)) /\ Status(c.op, "never") /\ Nothing
      [] c.job \in {"read", "seal"} /\ value.sealed ->
            Met(p, c, value.chain) /\ UNCHANGED operation /\ Nothing
      [] c.job = "read" /\ ~value.sealed ->
            Becomes(p, Free(c)) /\ UNCHANGED operation /\ Told(Version(value), c.begin)
      [] c.job = "restore" ->   \* whoever restored it, and whatever was changed since: it is there
            Becomes(p, [Free(c) EXCEPT !.job = "begin"]) /\ UNCHANGED operation /\ Nothing

------------------------------------------------------------------------------
(* Rounds (paxos.py, proposer.py). *)

\* The cold rounds that a proposer may begin. A round owns two counters: its accepts promise the ballot after its own.
Cold(p, c) ==
    {[c EXCEPT !.phase = "prepare", !.ballot = Ballot(n, p), !.counter[c.epoch] = n + 1, !.value = Absent,
               !.seen = {}, !.votes = {}, !.warm = FALSE] : n \in c.counter[c.epoch] + 1 .. Counters}

\* After a round of its own was decided, a majority has promised its next ballot already.
Warm(p, c) ==
    LET own == [promised |-> Following(c.ballot), accepted |-> c.ballot, value |-> c.value]
    IN  IF c.warm /\ Counter(c.ballot) < Counters
        THEN {[c EXCEPT !.phase = "propose", !.ballot = Following(@), !.counter[c.epoch] = Counter(c.ballot) + 2,
                        !.value = Applied(c, @), !.votes = {}, !.warm = FALSE,
                        !.seen = IF Plain(c.epoch) THEN {[voter |-> v, held |-> own] : v \in Voters(c.epoch)} ELSE {}]}
        ELSE {}

\* The value of the greatest ballot that a promising acceptor had accepted.
Adopted(seen) == (CHOOSE s \in seen : \A t \in seen : t.held.accepted <= s.held.accepted).held.value

Prepared(p, c) ==
    LET value == Applied(c, Adopted(c.seen))
    IN  IF MustBeChosen(c, value)
        THEN /\ Becomes(p, [c EXCEPT !.phase = "propose", !.value = value,
                                     !.seen = IF Plain(c.epoch) THEN @ ELSE {}])
             /\ UNCHANGED operation /\ Nothing
        ELSE Finished(p, c, value)

\* The put that an acceptor needs of this round, as [before, after]: none where it refuses, or its vote is known.
\* Where before and after are one, the vote is read, as after a reply that was lost.
PreparePuts(c, v) ==
    LET held == object[<<c.epoch, v>>]
    IN  IF /\ c.phase = "prepare" /\ v \in Voters(c.epoch) /\ v \notin {s.voter : s \in c.seen}
           /\ held.promised <= c.ballot
        THEN {[at |-> <<c.epoch, v>>, before |-> held,
               after |-> IF Plain(c.epoch) THEN held ELSE [held EXCEPT !.promised = c.ballot]]}
        ELSE {}

AcceptPuts(c, v) ==
    LET held == object[<<c.epoch, v>>]
        after == [promised |-> Following(c.ballot), accepted |-> c.ballot, value |-> c.value]
        same == \E s \in c.seen : s.voter = v /\ Tag(s.held) = Tag(held)
    IN  IF c.phase # "propose" \/ v \notin Voters(c.epoch) \/ v \in c.votes THEN {}
        ELSE IF held.accepted = c.ballot THEN {[at |-> <<c.epoch, v>>, before |-> held, after |-> held]}
        ELSE IF held.promised <= c.ballot /\ (Plain(c.epoch) => same)
        THEN {[at |-> <<c.epoch, v>>, before |-> held, after |-> after]}
        ELSE {}

\* A put takes effect. A copy of it may arrive later once more.
Happens(put) ==
    /\ object' = [object EXCEPT ![put.at] = put.after]
    /\ \E copy \in IF put.before = put.after THEN {{}} ELSE {{}, {put}} :
        /\ Cardinality(inflight \cup copy) <= InFlight \/ copy = {}
        /\ inflight' = Alive(inflight \cup copy, object')
    /\ accepts' = IF put.after.accepted = put.before.accepted THEN accepts
                  ELSE accepts \cup {[at |-> put.at, ballot |-> put.after.accepted, value |-> put.after.value]}

Promise(p, v) ==
    LET c == client[p]
    IN  \E put \in PreparePuts(c, v) :
        /\ Happens(put)
        /\ LET heard == [c EXCEPT !.seen = @ \cup {[voter |-> v, held |-> put.after]}]
           IN  IF 2 * Cardinality(heard.seen) > Cardinality(Voters(c.epoch))
               THEN Prepared(p, heard)
               ELSE Becomes(p, heard) /\ UNCHANGED operation /\ Nothing
        /\ UNCHANGED <<begun, readsLeft>>

Exposed(c) == IF c.job = "change" THEN [operation EXCEPT ![c.op].exposed = @ \cup {c.epoch}] ELSE operation

Accept(p, v) ==
    LET c == client[p]
    IN  \E put \in AcceptPuts(c, v) :
        /\ Happens(put)
        /\ LET heard == [c EXCEPT !.votes = @ \cup {v}]
           IN  IF Enough(c, heard.votes)
               THEN Finished(p, [heard EXCEPT !.warm = TRUE], c.value)
               ELSE Becomes(p, heard) /\ operation' = Exposed(c) /\ Nothing
        /\ UNCHANGED <<begun, readsLeft>>

\* The sender of a put gives up waiting, or dies, before the put arrives or before the reply does.
Delay(p, v) ==
    LET c == client[p]
    IN  \E put \in PreparePuts(c, v) \cup AcceptPuts(c, v) :
        /\ put.before # put.after
        /\ Cardinality(inflight \cup {put}) <= InFlight
        /\ inflight' = inflight \cup {put}
        /\ operation' = IF c.phase = "propose" /\ LostMayTakeEffect THEN Exposed(c) ELSE operation
        /\ UNCHANGED <<object, client, begun, readsLeft, accepts, floor, stale>>

Arrive ==
    /\ \E put \in inflight : Tag(object[put.at]) = Tag(put.before) /\ Happens(put)
    /\ UNCHANGED <<client, begun, operation, readsLeft, floor, stale>>

\* The first ballot of a job, or a new one: somebody was faster, or voters were slow; for a read, they did not agree.
Attempt(p) ==
    /\ client[p].job \in {"change", "read", "outcome", "seal", "restore"}
    /\ \E round \in Cold(p, client[p]) \cup Warm(p, client[p]) : Becomes(p, round)
    /\ UNCHANGED <<object, inflight, begun, operation, readsLeft, accepts, floor, stale>>

------------------------------------------------------------------------------
(* What users ask for (buckets.py). *)

IsIdle(p) == client[p].job = "idle"

\* A new change, which expects some version that somebody was told; or the same again, by whomever.
BeginChange(p, op) ==
    /\ IsIdle(p)
    /\ \/ /\ operation[op].status = "new"
          /\ \E expected \in 0 .. floor :
                operation' = [operation EXCEPT ![op] =
                    [status |-> "pending", expected |-> expected, begin |-> floor, exposed |-> {}]]
       \/ /\ operation[op].status \in {"unknown", "again"}
          /\ Status(op, "pending")
    /\ Becomes(p, [client[p] EXCEPT !.job = "change", !.op = op])
    /\ UNCHANGED <<object, inflight, begun, readsLeft, accepts, floor, stale>>

\* What became of a change that nobody sends any more.
BeginOutcome(p, op) ==
    /\ IsIdle(p)
    /\ operation[op].status = "unknown"
    /\ Status(op, "asked")
    /\ Becomes(p, [client[p] EXCEPT !.job = "outcome", !.op = op])
    /\ UNCHANGED <<object, inflight, begun, readsLeft, accepts, floor, stale>>

BeginRead(p) ==
    /\ IsIdle(p)
    /\ readsLeft > 0
    /\ readsLeft' = readsLeft - 1
    /\ Becomes(p, [client[p] EXCEPT !.job = "read", !.phase = "look", !.begin = floor])
    /\ UNCHANGED <<object, inflight, begun, operation, accepts, floor, stale>>

Look(p, v) ==
    LET c == client[p]
        seen == c.seen \cup {[voter |-> v, held |-> object[<<c.epoch, v>>]]}
        answers == Unanimous(c.epoch, seen)
    IN  /\ c.phase = "look" /\ v \in Voters(c.epoch) /\ v \notin {s.voter : s \in c.seen}
        /\ IF answers = {}
           THEN Becomes(p, [c EXCEPT !.seen = seen]) /\ UNCHANGED operation /\ Nothing
           ELSE \E held \in answers : Finished(p, [c EXCEPT !.seen = {}], held.value)
        /\ UNCHANGED <<object, inflight, begun, readsLeft, accepts>>

Unanswered(c) ==
    IF c.job \in {"change", "outcome"}
    THEN [operation EXCEPT ![c.op].status =
            IF @ = "asked" \/ operation[c.op].exposed # {} THEN "unknown" ELSE "unavailable"]
    ELSE operation

\* The deadline is over: `OutcomeUnknown`, or `Unavailable` where no put with the change was sent, which promises that
\* nothing was changed.
GiveUp(p) ==
    LET c == client[p]
    IN  /\ c.job \notin {"idle", "dead"}
        /\ Becomes(p, Idle(IF c.job \in {"restore", "begin"} THEN 1 ELSE c.epoch, c.counter))
        /\ operation' = Unanswered(c)
        /\ UNCHANGED <<object, inflight, begun, readsLeft, accepts, floor, stale>>

\* A proposer dies with all that it knew. One that is started anew is another one: it has another id.
Crash(p) ==
    LET c == client[p]
    IN  /\ c.job # "dead"
        /\ Cardinality({q \in Client : client[q].job = "dead"}) < Crashes
        /\ Becomes(p, [Idle(1, [epoch \in Epoch |-> 0]) EXCEPT !.job = "dead"])
        /\ operation' = IF c.job \in {"change", "outcome"} THEN [operation EXCEPT ![c.op].status = "unknown"]
                        ELSE operation
        /\ UNCHANGED <<object, inflight, begun, readsLeft, accepts, floor, stale>>

------------------------------------------------------------------------------
(* From one epoch to the next (epochs.py). `config` is sealed already, so there is one configuration that can follow; it
   and the register `config` of the next epoch, of which `begun` is all that matters here, are registers like this one,
   so what is shown for this one lets them be taken as atomic. *)

\* Somebody who knows the configuration that follows, from the register `config` or from a seal of this register.
Follow(p) ==
    LET c == client[p]
    IN  /\ Cardinality(Epoch) = 2
        /\ c.job = "follow" \/ (c.job = "idle" /\ c.epoch = 1)
        /\ Becomes(p, IF MayEnter THEN Idle(2, c.counter)
                      ELSE IF c.job = "idle" THEN [c EXCEPT !.job = "seal"]
                      ELSE IF c.carried = <<>> THEN [Idle(2, c.counter) EXCEPT !.job = "begin"]
                      ELSE [Idle(2, c.counter) EXCEPT !.job = "restore", !.carried = c.carried])
        /\ UNCHANGED <<object, inflight, begun, operation, readsLeft, accepts, floor, stale>>

\* A reader that may not write: what it saw sealed is the newest as long as the next epoch has not begun. (Who met the
\* seal with a change is told so here too, which is more than the code tells.)
AnswerBefore(p) ==
    LET c == client[p]
    IN  /\ c.job = "follow"
        /\ ~begun
        /\ Becomes(p, Idle(1, c.counter))
        /\ Told(Len(c.carried), c.begin)
        /\ UNCHANGED <<object, inflight, begun, operation, readsLeft, accepts>>

\* The last step of a move: `config` is restored too.
Begin(p) ==
    /\ MayBegin(client[p])
    /\ begun' = TRUE
    /\ Becomes(p, IF client[p].job = "begin" THEN Free(client[p]) ELSE client[p])
    /\ UNCHANGED <<object, inflight, operation, readsLeft, accepts, floor, stale>>

------------------------------------------------------------------------------

Next ==
    \/ \E p \in Client :
        \/ \E op \in Op : BeginChange(p, op) \/ BeginOutcome(p, op)
        \/ BeginRead(p) \/ Attempt(p) \/ GiveUp(p) \/ Crash(p)
        \/ Follow(p) \/ AnswerBefore(p) \/ Begin(p)
        \/ \E v \in OldVoter \cup NewVoter : Promise(p, v) \/ Accept(p, v) \/ Delay(p, v) \/ Look(p, v)
    \/ Arrive

Spec == Init /\ [][Next]_vars

Symmetry == Permutations(OldVoter) \cup Permutations(NewVoter) \cup Permutations(Op)

------------------------------------------------------------------------------
(* What must hold. *)

Chosen(epoch) ==
    LET cast == {a \in accepts : a.at[1] = epoch}
    IN  {[ballot |-> a.ballot, value |-> a.value] :
            a \in {b \in cast : 2 * Cardinality({d \in cast : d.ballot = b.ballot /\ d.value = b.value})
                                > Cardinality(Voters(epoch))}}

\* A ballot carries one value.
OneValuePerBallot == \A a, b \in accepts : (a.at[1] = b.at[1] /\ a.ballot = b.ballot) => a.value = b.value

\* Each chosen value goes on from those of lower ballots, so each version is set once; a seal is the last change.
ChosenIsChain ==
    \A epoch \in Epoch : \A a, b \in Chosen(epoch) :
        a.ballot < b.ballot => /\ Extends(b.value.chain, a.value.chain)
                               /\ a.value.sealed => b.value = a.value

\* What is chosen in the second epoch goes on from what was sealed in the first; before that nothing is.
EpochsAreOneChain ==
    2 \in Epoch => \A b \in Chosen(2) :
        b.value # Absent => \E a \in Chosen(1) : a.value.sealed /\ Extends(b.value.chain, a.value.chain)

\* A change takes effect at most once.
AtMostOnce ==
    \A epoch \in Epoch : \A a \in Chosen(epoch) : \A i, j \in 1 .. Version(a.value) :
        (i # j) => a.value.chain[i] # a.value.chain[j]

AllChosen == UNION {Chosen(epoch) : epoch \in Epoch}

\* A change that was acknowledged is chosen (and stays so, by the chains).
AcknowledgedIsKept == \A op \in Op : operation[op].status = "done" => \E a \in AllChosen : Holds(a.value, op)

\* A change that was said to have no effect has none, ever.
RefusedIsNotSeen ==
    \A op \in Op : operation[op].status \in {"refused", "never", "unavailable"} =>
        \A a \in AllChosen : ~Holds(a.value, op)

\* Linearizable: no answer is older than an answer that was given before its question was asked, and no change stands
\* before what was told before it began. With chains, the order of changes is the order of versions, so these pairs are
\* all that can go wrong.
Linearizable ==
    /\ ~stale
    /\ \A op \in Op : \A a \in AllChosen : Holds(a.value, op) => Position(a.value, op) > operation[op].begin

\* No invariant but the opposite of one, to see that the specification gets there: a change is made in each epoch.
NothingGoesOn ==
    ~\E a \in AllChosen : \E x, y \in Op :
        a.value.chain = <<x, TheSeal, y>> /\ operation[x].status = "done" /\ operation[y].status = "done"

\* Each put that takes effect leaves an object that is newer than any before: no tag comes twice.
NewerOnly ==
    [][\A place \in Objects :
        \/ object'[place] = object[place]
        \/ /\ object'[place].promised >= object[place].promised
           /\ object'[place].accepted >= object[place].accepted
           /\ object'[place].promised + object'[place].accepted > object[place].promised + object[place].accepted]_vars

==================================================================================

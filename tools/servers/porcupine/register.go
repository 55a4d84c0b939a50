package main

import (
	"fmt"
	"hash/fnv"
	"math"

	"github.com/anishathalye/porcupine"
)

// changesKept is the least that an engine remembers of a register's changes (CHANGES_KEPT of the port).
const changesKept = 64

// register is the state: its changes, as an immutable list whose head is the newest, and the operation ids that were
// found absent, with the times at which this was asked. The same absences are the same list, in whichever order they
// were found.
type register struct {
	newest *change
	absent *absence
	ended  bool
}

type change struct {
	version     int
	data        string
	operationID string
	before      *change
	hash        uint64 // of this change and all before it
}

type absence struct {
	operationID string
	askedNS     int64
	next        *absence
}

// end is the input of an operation that we put behind every answer. Until then an operation without an answer may only
// take effect; from then on it may have none. So the search does not try all the places where it changes nothing.
type end struct{}

func (r register) find(operationID string) *change {
	for c := r.newest; c != nil; c = c.before {
		if c.operationID == operationID {
			return c
		}
	}
	return nil
}

func (r register) version() int {
	if r.newest == nil {
		return 0
	}
	return r.newest.version
}

func (r register) data() string {
	if r.newest == nil {
		return ""
	}
	return r.newest.data
}

// kept says whether a change is among the last ones, which no engine may have forgotten. It may know older ones.
func (r register) kept(operationID string) bool {
	found := r.find(operationID)
	return found != nil && r.version()-found.version < changesKept
}

func (r register) settled(o *operation) bool {
	for a := r.absent; a != nil; a = a.next {
		if a.operationID == o.OperationID && a.askedNS > *o.CalledNS {
			return true
		}
	}
	return false
}

// changed gives the register after one more change. That of a move has no operation id.
func (r register) changed(data, operationID string) register {
	hash := fnv.New64a()
	fmt.Fprintf(hash, "%d %q %q", r.hash(), operationID, data)
	r.newest = &change{r.version() + 1, data, operationID, r.newest, hash.Sum64()}
	return r
}

func (r register) hash() uint64 {
	if r.newest == nil {
		return 0
	}
	return r.newest.hash
}

// with gives the absences with one more, in order.
func (a *absence) with(operationID string, askedNS int64) *absence {
	if a == nil || operationID < a.operationID || operationID == a.operationID && askedNS <= a.askedNS {
		return &absence{operationID, askedNS, a}
	}
	return &absence{a.operationID, a.askedNS, a.next.with(operationID, askedNS)}
}

// is says whether a value is the one that a change has set.
func (told *result) is(c *change) bool {
	return c != nil && *told.Version == c.version && told.Data == c.data
}

// step says whether the register may answer an operation as it did, and what it is afterwards.
func step(state, input, _ any) (bool, any) {
	r := state.(register)
	o, isOperation := input.(*operation)
	if !isOperation {
		r.ended = true
		return true, r
	}
	told := &o.Result
	switch o.Operation + " " + told.Kind {
	case "read value":
		return *told.Version == r.version() && told.Data == r.data(), r
	case "outcome value":
		return told.is(r.find(o.OperationID)), r
	case "outcome absent":
		legal := !r.kept(o.OperationID)
		r.absent = r.absent.with(o.OperationID, *o.CalledNS)
		return legal, r
	case "compare_and_set conflict":
		current := *told.CurrentVersion
		return current == r.version() && current != *o.ExpectedVersion && !r.kept(o.OperationID), r
	case "compare_and_set value":
		if earlier := r.find(o.OperationID); earlier != nil {
			return told.is(earlier), r
		}
		if *o.ExpectedVersion != r.version() {
			return false, r
		}
		after := r.changed(o.Data, o.OperationID)
		return told.is(after.newest), after
	case "compare_and_set unknown":
		if r.ended {
			return true, r
		}
		if *o.ExpectedVersion != r.version() || r.find(o.OperationID) != nil || r.settled(o) {
			return false, r
		}
		return true, r.changed(o.Data, o.OperationID)
	case "move unknown":
		if r.ended {
			return true, r
		}
		if r.newest == nil {
			return false, r
		}
		return true, r.changed(r.data(), "")
	}
	panic("an operation that is not judged")
}

func equal(one, other any) bool {
	a, b := one.(register), other.(register)
	if a.ended != b.ended || a.version() != b.version() || a.hash() != b.hash() {
		return false
	}
	for c, d := a.newest, b.newest; c != d; c, d = c.before, d.before {
		if c.operationID != d.operationID || c.data != d.data {
			return false
		}
	}
	c, d := a.absent, b.absent
	for ; c != d; c, d = c.next, d.next {
		if c == nil || d == nil || c.operationID != d.operationID || c.askedNS != d.askedNS {
			return false
		}
	}
	return true
}

var model = porcupine.Model{
	Init:              func() any { return register{} },
	Step:              step,
	Equal:             equal,
	Hash:              func(state any) uint64 { return state.(register).hash() },
	DescribeOperation: func(input, _ any) string { return describe(input) },
	DescribeOperationMetadata: func(row any) string {
		if row == nil {
			return ""
		}
		return row.(string)
	},
	DescribeState: func(state any) string {
		r := state.(register)
		return fmt.Sprintf("version %d: %q", r.version(), r.data())
	},
}

func describe(input any) string {
	o, isOperation := input.(*operation)
	if !isOperation {
		return "end: what has no answer by now had no effect"
	}
	asked := o.Operation
	if o.Operation == "compare_and_set" {
		asked = fmt.Sprintf("set %q on version %d (%s)", o.Data, *o.ExpectedVersion, o.OperationID)
	} else if o.Operation == "outcome" {
		asked = fmt.Sprintf("outcome of %s", o.OperationID)
	}
	switch o.Result.Kind {
	case "value":
		return fmt.Sprintf("%s: version %d, %q", asked, *o.Result.Version, o.Result.Data)
	case "conflict":
		return fmt.Sprintf("%s: conflict with version %d", asked, *o.Result.CurrentVersion)
	}
	return fmt.Sprintf("%s: %s", asked, o.Result.Kind)
}

// toPorcupine gives the judged operations of one register. One without an answer is over after the end of the others,
// and has a row of its own in the picture, since its client has gone on.
func toPorcupine(operations []*operation) []porcupine.Operation {
	lastNS := int64(math.MinInt64)
	for _, o := range operations {
		lastNS = max(lastNS, *o.CalledNS)
		if o.ReturnedNS != nil {
			lastNS = max(lastNS, *o.ReturnedNS)
		}
	}
	var history []porcupine.Operation
	rows := map[string]int{}
	for _, o := range operations {
		row, returnedNS := o.Client, lastNS+2
		if o.ReturnedNS == nil {
			row = fmt.Sprintf("%s without an answer at %d", o.Client, *o.CalledNS)
		} else {
			returnedNS = *o.ReturnedNS
		}
		if _, known := rows[row]; !known {
			rows[row] = len(rows)
		}
		history = append(history, porcupine.Operation{
			ClientId: rows[row], Input: o, Call: *o.CalledNS, Return: returnedNS, Metadata: "client " + o.Client,
		})
	}
	return append(history, porcupine.Operation{ClientId: len(rows), Input: end{}, Call: lastNS + 1, Return: lastNS + 1})
}

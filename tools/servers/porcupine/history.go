package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// operation is a line of a history; docs/consensus.md gives the format.
type operation struct {
	Register        string `json:"register"`
	Client          string `json:"client"`
	Operation       string `json:"operation"`
	CalledNS        *int64 `json:"called_ns"`
	ReturnedNS      *int64 `json:"returned_ns"`
	ExpectedVersion *int   `json:"expected_version"`
	AfterVersion    *int   `json:"after_version"`
	Data            string `json:"data"`
	OperationID     string `json:"operation_id"`
	Result          result `json:"result"`
}

type result struct {
	Kind           string          `json:"kind"`
	Version        *int            `json:"version"`
	Data           string          `json:"data"`
	CurrentVersion *int            `json:"current_version"`
	Values         json.RawMessage `json:"values"` // of a watch, which is not judged here
}

// readHistory gives the operations of a file in its order. What is no history is an error, with its line.
func readHistory(file io.Reader) ([]operation, error) {
	var operations []operation
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 16<<20)
	for number := 1; lines.Scan(); number++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		decoder := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		decoder.DisallowUnknownFields()
		var read operation
		if err := decoder.Decode(&read); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if err := read.check(); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		operations = append(operations, read)
	}
	return operations, lines.Err()
}

func (o *operation) check() error {
	switch {
	case o.Register == "" || o.Client == "" || o.CalledNS == nil:
		return fmt.Errorf("register, client or called_ns is missing")
	case (o.ReturnedNS == nil) != (o.Result.Kind == "unknown"):
		return fmt.Errorf("an operation has no end if, and only if, its result is unknown")
	case o.ReturnedNS != nil && *o.ReturnedNS < *o.CalledNS:
		return fmt.Errorf("it ended before it began")
	case o.Operation == "compare_and_set" && (o.ExpectedVersion == nil || o.OperationID == ""):
		return fmt.Errorf("expected_version or operation_id is missing")
	case o.Operation == "outcome" && o.OperationID == "":
		return fmt.Errorf("operation_id is missing")
	case o.Result.Kind == "value" && o.Result.Version == nil:
		return fmt.Errorf("the version of the value is missing")
	case o.Result.Kind == "conflict" && o.Result.CurrentVersion == nil:
		return fmt.Errorf("current_version is missing")
	}
	switch o.Operation + " " + o.Result.Kind {
	case "read value", "compare_and_set value", "compare_and_set conflict", "outcome value", "outcome absent",
		"watch changes", "watch resync",
		"read unknown", "compare_and_set unknown", "outcome unknown", "watch unknown", "move unknown",
		"read failed", "compare_and_set failed", "outcome failed", "watch failed":
		return nil
	}
	return fmt.Errorf("%q cannot be answered with %q", o.Operation, o.Result.Kind)
}

// judged says whether an operation tells something of the order of the changes, or may be a change. A watch has a
// checker of its own; what failed had no effect.
func (o *operation) judged() bool {
	if o.Operation == "watch" || o.Result.Kind == "failed" {
		return false
	}
	return o.Operation == "compare_and_set" || o.Operation == "move" || o.Result.Kind != "unknown"
}

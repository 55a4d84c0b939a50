// Command history-checker judges with Porcupine whether histories of registers are linearizable.
//
//	history-checker [-timeout 60s] [-visualise FILE.html] HISTORY.jsonl...
//
// Each file holds the operations of one run (docs/consensus.md gives the format). Each register is judged by itself,
// and its verdict is a line of JSON: "ok", "illegal", or "unknown" where the time was not enough. The exit status is 0
// if all are ok, 1 if one is illegal, 2 if none is but one is unknown, 3 if something is no history. A picture is made
// of the first that is illegal.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	statusOK = iota
	statusIllegal
	statusUnknown
	statusMalformed
)

type judgement struct {
	File       string  `json:"file"`
	Register   string  `json:"register"`
	Operations int     `json:"operations"`
	Verdict    string  `json:"verdict"`
	Seconds    float64 `json:"seconds"`
	operations []*operation
}

func main() {
	flags := flag.NewFlagSet("history-checker", flag.ContinueOnError)
	timeout := flags.Duration("timeout", time.Minute, "for each register; 0: none")
	picture := flags.String("visualise", "", "write a picture of the first illegal history to this HTML `file`")
	err := flags.Parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(statusOK)
	}
	if err == nil && flags.NArg() == 0 {
		err = errors.New("expected a file with a history")
	}
	if err != nil {
		fail(err)
	}
	status := statusOK
	for _, path := range flags.Args() {
		judgements, err := load(path)
		if err != nil {
			fail(fmt.Errorf("%s: %w", path, err))
		}
		judgeAll(judgements, *timeout)
		for _, judged := range judgements {
			line, err := json.Marshal(judged)
			if err != nil {
				fail(err)
			}
			fmt.Println(string(line))
			if judged.Verdict == "illegal" && status != statusIllegal {
				status = statusIllegal
				if err := draw(judged, *timeout, *picture); err != nil {
					fail(err)
				}
			} else if judged.Verdict == "unknown" && status == statusOK {
				status = statusUnknown
			}
		}
	}
	os.Exit(status)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "error:", err)
	os.Exit(statusMalformed)
}

// load reads a file: its registers, in the order in which they come first.
func load(path string) ([]*judgement, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	operations, err := readHistory(file)
	if err != nil {
		return nil, err
	}
	var judgements []*judgement
	byRegister := map[string]*judgement{}
	for number := range operations {
		o := &operations[number]
		found := byRegister[o.Register]
		if found == nil {
			found = &judgement{File: path, Register: o.Register}
			byRegister[o.Register] = found
			judgements = append(judgements, found)
		}
		if o.judged() {
			found.operations = append(found.operations, o)
			found.Operations++
		}
	}
	return judgements, nil
}

// judgeAll judges as many registers at once as there are cores.
func judgeAll(judgements []*judgement, timeout time.Duration) {
	waiting := make(chan *judgement)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for judged := range waiting {
				started := time.Now()
				verdict := porcupine.CheckOperationsTimeout(model, toPorcupine(judged.operations), timeout)
				judged.Seconds = time.Since(started).Seconds()
				judged.Verdict = strings.ToLower(string(verdict))
			}
		})
	}
	for _, judged := range judgements {
		waiting <- judged
	}
	close(waiting)
	workers.Wait()
}

// draw judges an illegal history again, this time keeping how far each attempt of the search came.
func draw(judged *judgement, timeout time.Duration, path string) error {
	if path == "" {
		return nil
	}
	_, info := porcupine.CheckOperationsVerbose(model, toPorcupine(judged.operations), timeout)
	return porcupine.VisualizePath(model, info, path)
}

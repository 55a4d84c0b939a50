"""Judge files of histories: `python -m tests.consensus.histories HISTORY.jsonl…`

A line of JSON for each register: the verdict of the search ("ok", "illegal", "unknown"), and the first wrong answer to
a watcher, if any. The exit status is that of `history-checker`: 0 if all is right, 1 if something is wrong, 2 if
nothing is but a search was given up, 3 if something is no history.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.consensus.histories.history import MalformedHistory, by_register, read_history, to_json
from tests.consensus.histories.linearizability import Verdict
from tests.consensus.histories.register_model import judge
from tests.consensus.histories.watching import watch_violation


def main(paths: list[str]) -> int:
    if not paths:
        print(__doc__, file=sys.stderr)
        return 3
    status = 0
    for path in paths:
        try:
            operations = read_history(Path(path))
        except (MalformedHistory, OSError, UnicodeDecodeError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 3
        judgements = judge(operations)
        for register, history in by_register(operations).items():
            judgement, watch = judgements[register], watch_violation(history)
            line = {"file": path, "register": register, "verdict": judgement.verdict.value, "watch": watch}
            if judgement.stuck is not None:
                line |= {"longest": judgement.longest, "stuck": json.loads(to_json(judgement.stuck))}
            print(json.dumps(line))
            if judgement.verdict is Verdict.ILLEGAL or watch is not None:
                status = 1
            elif judgement.verdict is Verdict.UNKNOWN and status == 0:
                status = 2
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`skyhold doctor`"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from skyhold import error_codes
from skyhold.cli.command import Invocation, verb
from skyhold.cli.output import counted
from skyhold.errors import SkyholdError

if TYPE_CHECKING:
    from skyhold.cli.diagnosis import CheckResult


@verb(examples=("skyhold doctor", "skyhold doctor --json"), exits=(1, 2))
def command(session: Invocation) -> None:
    """Examine this machine's set-up, and report each problem with what to do about it.

    It examines extras, settings and the source of each, keys, state and cache folders, free space, how each bucket of
    the store answers, and whether its copies of the registers are intact. It changes nothing and prints no secret.

    Where it finds a problem it ends with status 1.
    """
    from skyhold.cli.diagnosis import diagnose

    results = list(diagnose(session.settings, session.store, replace(session, stale=True).store))
    problems = [result for result in results if result.state == "problem"]
    session.output.show(
        {"healthy": not problems, "signs": results},
        quiet=[f"{result.topic}: {result.detail}" for result in results if result.state != "good"],
        human=lambda: _show(results),
    )
    if problems:
        raise SkyholdError(
            f"{counted(len(problems), 'problem')} found",
            code=error_codes.NOT_HEALTHY,
            hint=problems[0].hint or problems[0].detail,
        )


def _show(results: Sequence[CheckResult]) -> None:
    from skyhold.cli.render import line, marked

    marks = {"good": "good", "warning": "warn", "problem": "bad"}
    for result in results:
        line(marked(f"{result.state:8}", marks[result.state]), f"{result.topic}: {result.detail}")
        if result.hint and result.state != "good":
            line(f"{'':8}  {result.hint}")

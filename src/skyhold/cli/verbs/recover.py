"""`skyhold recover`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from skyhold.cli.arguments import confirm, yes_option
from skyhold.cli.command import Invocation, verb
from skyhold.cli.output import counted, printable

if TYPE_CHECKING:
    from skyhold.store.recovering import RecoverReport
    from skyhold.store.register_recovery import RegisterPlan, VoterFinding

MACHINE: Final = "Take this store over on this machine, and lock out its former machine?"
MACHINE_OF_MINORITY: Final = (
    "Give up the changes that only the missing buckets have, take this store over on this machine, and lock out its "
    "former machine?"
)
MINORITY: Final = "Give up the changes that only the missing buckets have, and go on without their votes?"


@verb(
    click.Argument(["url"]),
    click.Option(
        ["--minority"],
        is_flag=True,
        help="Go on with less than a majority of the buckets: changes that only the others have are lost.",
    ),
    click.Option(
        ["--register"],
        metavar="REGISTER",
        help="Only the refs of this repository (team/name), or what an error names: repository/ID, document/ID, names, "
        "config.",
    ),
    click.Option(
        ["--empty"],
        is_flag=True,
        help="With --register: where nothing of a repository's refs is left, recreate it without versions.",
    ),
    yes_option(),
    examples=(
        "skyhold recover s3://models-eu/skyhold",
        "skyhold recover ./cloud-b --minority",
        "skyhold recover ./cloud-b --register fraud/scorer",
    ),
    exits=(2, 3, 5, 6, 8, 9, 10),
    changes=True,
)
def command(session: Invocation, *, url: str, minority: bool, register: str | None, empty: bool, yes: bool) -> None:
    """Bring a store's refs back from its surviving buckets, of which URL is one.

    Engine `sqlite`, after the machine or its state folder was lost, even during a move to it: the refs are read from
    the checkpoints. This machine takes the store over; the former one is refused if it comes back.

    Engine `buckets`: there is nothing to recover while a majority of the voters answers. Where a majority is lost for
    good, `--minority` starts a new epoch with the voters that are left, from the newest values that they have accepted;
    changes that only the lost voters had are lost. The lost buckets must not come back: together they would be a second
    store.

    Where one register is damaged or missing in most of the buckets, `--register` shows what each of them still holds
    of it and what may be lost, and recovers it from the newest intact copy. Everything else continues meanwhile.
    """
    from skyhold.registry import lifecycle

    if register is not None:
        _recover_register(session, url, register, empty=empty, yes=yes, minority=minority)
        return
    if empty:
        raise click.UsageError("--empty goes with --register")

    def consent(engine: str) -> None:
        of_machine = MACHINE_OF_MINORITY if minority else MACHINE
        confirm(of_machine if engine == "sqlite" else MINORITY, yes=yes)

    recovered, report = session.unseal(
        session.settings(),
        lambda settings: lifecycle.recover(url, settings=settings, minority=minority, consent=consent),
    )
    with recovered:
        session.output.show(report, quiet=[recovered.id], human=lambda: _show(report))
        session.output.next_step("skyhold verify")


def _recover_register(session: Invocation, url: str, register: str, *, empty: bool, yes: bool, minority: bool) -> None:
    from skyhold.registry import lifecycle

    if minority:
        raise click.UsageError(
            "--register and --minority are two ways: first the one, then, if it is needed, the other"
        )

    def consent(plan: RegisterPlan) -> None:
        if not session.output.json and not session.output.quiet:
            _show_plan(plan)
        confirm(f"Go on from version {plan.version}? {plan.losses}.", yes=yes)

    store, report = session.unseal(
        session.settings(),
        lambda settings: lifecycle.recover_register(url, register, settings=settings, empty=empty, consent=consent),
    )
    with store:
        text = f"Register {report.plan.register} goes on from version {report.plan.version}, in epoch {report.epoch}"
        session.output.show(report, quiet=[report.plan.register], human=lambda: click.echo(text))
        session.output.next_step("skyhold verify")


def _show_plan(plan: RegisterPlan) -> None:
    """What was found, on stderr, before the user is asked to consent."""
    click.echo(f"Register {plan.register} of store {plan.store}, epoch {plan.epoch}:", err=True)
    for finding in plan.voters:
        click.echo(f"  {printable(finding.voter)}: {printable(_found(finding))}", err=True)
    if plan.source == "earlier epoch":
        click.echo(f"  an earlier epoch ended with version {plan.version}", err=True)
    click.echo(printable(plan.losses), err=True)


def _found(finding: VoterFinding) -> str:
    if finding.version is None:
        return f"{finding.state} ({finding.reason})" if finding.reason else finding.state
    events = "" if finding.events is None else f", {counted(finding.events, 'event')}"
    writer = finding.writer or "an unknown writer"
    summary = f"{finding.state}, version {finding.version}{events}, written by {writer} at {finding.time}"
    summary += f" ({finding.reason})" if finding.reason else ""
    return f"{summary}; it goes on from this copy" if finding.chosen else summary


def _show(report: RecoverReport) -> None:
    from skyhold.cli.render import line, marked

    line(
        "Recovered store ",
        marked(report.store, "id"),
        f": {counted(report.registers, 'register')}, epoch {report.epoch}",
    )
    line(f"  from {', '.join(report.answered)}")
    for name, reason in report.failed.items():
        line(marked("no answer: ", "warn"), f"{name} ({reason})")
    for damage in report.damaged:
        line(marked("damaged: ", "bad"), f"{damage.key} in {damage.bucket} ({damage.reason})")
    if not report.majority:
        line(marked("Less than a majority answered: ", "bad"), "changes that only the others have are lost")

"""`skyhold recover`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from skyhold.cli.arguments import confirm, yes_option
from skyhold.cli.command import Session, verb
from skyhold.cli.output import counted

if TYPE_CHECKING:
    from skyhold.registry.recovering import RecoverReport

MACHINE: Final = "Take this store over on this machine, and shut its former machine out?"
MINORITY: Final = (
    "Give up the changes that only the missing buckets know, and go on without those buckets "
    "(of the engine `sqlite`: on this machine, with its former machine shut out)?"
)


@verb(
    click.Argument(["url"]),
    click.Option(
        ["--minority"],
        is_flag=True,
        help="Go on with less than a majority of the buckets: changes that only the others know are lost.",
    ),
    yes_option(),
    examples=("skyhold recover s3://models-eu/skyhold", "skyhold recover ./cloud-b --minority"),
    exits=(2, 3, 6, 8, 10),
    changes=True,
)
def command(session: Session, *, url: str, minority: bool, yes: bool) -> None:
    """Bring a store's refs back from its surviving buckets, of which URL is one.

    Of the engine `sqlite`, where the machine, or its state folder, is lost, be it half-way through a move to it: from
    the checkpoints. This machine takes the store over, and the former one, should it come back, is refused.

    Of the engine `buckets` there is no machine to lose, and nothing to recover while a majority of the voters answers.
    Where the others are lost for good, `--minority` begins anew with those that are left, from the newest values that
    they have accepted; changes that only the lost ones knew are lost. Those must not come back: together they would be
    a second store.
    """
    from skyhold.registry import store

    confirm(MINORITY if minority else MACHINE, yes=yes)
    recovered, report = session.unseal(
        session.settings(), lambda settings: store.recover(url, settings=settings, minority=minority)
    )
    with recovered:
        session.output.show(report.to_json(), quiet=[recovered.id], human=lambda: _tell(report))
        session.output.next_step("skyhold verify")


def _tell(report: RecoverReport) -> None:
    from skyhold.cli.render import line, marked

    line(
        "Recovered store ", marked(report.store, "id"), f": {counted(report.registers, 'register')}, term {report.term}"
    )
    line(f"  from {', '.join(report.answered)}")
    for name, reason in report.failed.items():
        line(marked("no answer: ", "warn"), f"{name} ({reason})")
    for damage in report.damaged:
        line(marked("damaged: ", "bad"), f"{damage.key} in {damage.bucket} ({damage.reason})")
    if not report.majority:
        line(marked("Less than a majority answered: ", "bad"), "changes that only the others know are lost")

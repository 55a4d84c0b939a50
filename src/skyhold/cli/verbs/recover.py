"""`skyhold recover`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from skyhold.cli.arguments import confirm, yes_option
from skyhold.cli.command import Session, verb
from skyhold.cli.output import counted

if TYPE_CHECKING:
    from skyhold.registry.recovering import RecoverReport


@verb(
    click.Argument(["url"]),
    click.Option(
        ["--minority"],
        is_flag=True,
        help="Go on with less than a majority of the buckets: changes that only the others know are lost.",
    ),
    yes_option(),
    examples=("skyhold recover s3://models-eu/skyhold", "skyhold recover ./cloud-b --yes --json"),
    exits=(2, 3, 6, 8, 10),
)
def command(session: Session, *, url: str, minority: bool, yes: bool) -> None:
    """Bring a store's refs back from the checkpoints in its surviving buckets, of which URL is one.

    For a store of the engine `sqlite` whose machine, or whose state folder, is lost. This machine takes the store
    over: the former one, should it come back, is refused.
    """
    from skyhold.registry import store

    confirm("Take this store over on this machine, and shut its former machine out?", yes=yes)
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

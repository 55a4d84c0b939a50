"""`skyhold bucket add`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from skyhold.cli.arguments import author_option, reason_option, refuse_memory
from skyhold.cli.command import Invocation, verb

if TYPE_CHECKING:
    from skyhold.store.configuration import Role
    from skyhold.store.join_plan import JoinPlan


@verb(
    click.Argument(["name"]),
    click.Argument(["url"]),
    click.Option(["--provider"], metavar="NAME", help="Its provider, if the URL does not show it (minio, r2, …)."),
    click.Option(["--region"], metavar="NAME", help="Where it is; policies refer to it."),
    click.Option(["--endpoint"], metavar="URL", help="Address of an S3-compatible or private service."),
    click.Option(["--credentials"], metavar="REF", help="chain, env:PREFIX, file:PATH or profile:NAME."),
    click.Option(["--path-style/--virtual-hosted"], default=None, help="How an S3 bucket is addressed."),
    click.Option(["--ca-file"], metavar="FILE", help="Certificates to trust for the endpoint."),
    click.Option(
        ["--allow-http"], is_flag=True, default=None, help="Permit a plain-HTTP endpoint in a trusted network."
    ),
    click.Option(
        ["--role"],
        type=click.Choice(["voter", "packs"]),
        help="Whether it takes part in deciding on refs; by default it does while there are fewer than seven voters.",
    ),
    click.Option(
        ["--dry-run"], is_flag=True, help="Check that it could join and show what would change; change nothing."
    ),
    author_option(),
    reason_option(),
    examples=(
        "skyhold bucket add gcs-eu gs://models-eu/skyhold --region europe-west4",
        "skyhold bucket add lab s3://models --endpoint https://minio.lab --provider minio --credentials env:LAB",
        "skyhold bucket add nas /mnt/nas/skyhold --dry-run",
    ),
    exits=(2, 3, 4, 5, 6, 8, 9),
    changes=True,
)
def command(
    session: Invocation,
    *,
    name: str,
    url: str,
    role: Role | None,
    dry_run: bool,
    author: str | None,
    reason: str,
    **options: object,
) -> None:
    """Add a bucket to the store. It must be empty, and a folder is made where it is missing. `skyhold sync` then
    copies to it what the store holds already."""
    from skyhold.json_form import as_json

    refuse_memory(url)
    given = {option: value for option, value in options.items() if value is not None}
    with session.store() as store:
        plan = store.add_bucket(name, url, role=role, dry_run=dry_run, author=author, reason=reason, **given)
    session.output.show(
        {"dry_run": dry_run, **as_json(plan)},
        quiet=[name],
        human=lambda: _show_plan(plan) if dry_run else _show(plan),
    )
    if not dry_run:
        session.output.next_step("skyhold sync   # bring it up to date")


def _show(plan: JoinPlan) -> None:
    click.echo(f"Added bucket {plan.bucket.name}; the store has {len(plan.notified) + 1} now")


def _show_plan(plan: JoinPlan) -> None:
    from skyhold.cli.render import line, marked, properties

    location = plan.bucket
    line("Would add bucket ", marked(location.name, "name"), f" at {location.url}; nothing was changed")
    properties(
        [
            ("checked", "its name and place are free" if plan.makes_folder else "it can be reached, and is empty"),
            ("would make", str(location.path) if plan.makes_folder else ""),
            ("would write", f"store.json in {location.name}, and the list of buckets in {', '.join(plan.notified)}"),
        ]
    )
    for sentence in plan.losses:
        line(f"  {sentence}")

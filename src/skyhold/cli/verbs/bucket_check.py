"""`skyhold bucket check`"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from skyhold import error_codes
from skyhold.cli import candidates
from skyhold.cli.command import Invocation, verb
from skyhold.cli.output import counted
from skyhold.errors import SkyholdError

if TYPE_CHECKING:
    from rich.text import Text

    from skyhold.buckets.admission import AdmissionVerdict
    from skyhold.buckets.check import BucketReport
    from skyhold.buckets.iam_policies import Role
    from skyhold.buckets.rules import Rule


@verb(
    click.Argument(["name"], shell_complete=candidates.buckets),
    click.Option(
        ["--policy", "role"],
        type=click.Choice(["reader", "writer", "voter"]),
        help="Print only the least policy that this role needs, for the provider's console.",
    ),
    examples=("skyhold bucket check gcs-eu", "skyhold bucket check s3-eu --policy writer > policy.json"),
    exits=(1, 2, 3, 6, 8),
)
def command(session: Invocation, *, name: str, role: str | None) -> None:
    """Test a bucket of the store from this machine.

    It reports whether the bucket is reachable, which permissions are missing, how far its clock is off, round trip and
    throughput, rules (lifecycle, versioning, object lock) that would hurt, and whether its conditional puts are atomic
    under contention, which a voter needs. It writes a few objects below .skyhold-check/ and deletes them.

    Where something would hurt the store it ends with status 1.
    """
    from skyhold.buckets.iam_policies import least_policy

    with session.store() as store:
        location = store.configuration.bucket(name).location
        if role is not None:
            document = least_policy(location, cast("Role", role))
            session.output.show(
                {"bucket": name, "role": role, "policy": document}, quiet=[document], human=lambda: click.echo(document)
            )
            return
        report = store.check_bucket(name)
    session.output.show(report, quiet=report.problems, human=lambda: _show(report))
    if report.problems:
        raise SkyholdError(
            f"Bucket `{name}` has {counted(len(report.problems), 'problem')}",
            code=error_codes.BUCKET_UNFIT,
            hint=f"skyhold bucket check {name} --policy writer" if report.missing_rights else None,
            bucket=name,
        )


def _show(report: BucketReport) -> None:
    from skyhold.cli.render import line, marked, properties
    from skyhold.units import format_bytes

    line("Bucket ", marked(report.bucket, "name"), f" at {report.url}")
    rate = {"upload": report.upload_bytes_per_s, "download": report.download_bytes_per_s}
    properties(
        [
            ("reachable", marked("yes", "good") if report.reachable else marked("no", "bad")),
            ("works", ", ".join(trial.operation for trial in report.trials if trial.works)),
            ("missing rights", marked(", ".join(report.missing_rights), "bad")),
            ("round trip", "" if report.round_trip_s is None else f"{1000 * report.round_trip_s:.3g} ms"),
            *((name, "" if speed is None else f"{format_bytes(speed)}/s") for name, speed in rate.items()),
            ("clock", "" if report.clock_skew_s is None else f"{report.clock_skew_s:+.1f} s from the store's"),
            ("lifecycle", _rule(report.rules.lifecycle)),
            ("versioning", _rule(report.rules.versioning)),
            ("retention", _rule(report.rules.retention)),
            ("conditional puts", _admission(report.admission)),
        ]
    )
    for problem in report.problems:
        line(marked("problem: ", "bad"), problem)


def _rule(rule: Rule) -> Text:
    from skyhold.cli.render import marked

    mark = {"harmful": "bad", "costly": "warn", "unknown": "warn"}.get(rule.verdict, "good")
    return marked(f"{rule.verdict}: {rule.detail}", mark)


def _admission(verdict: AdmissionVerdict | None) -> Text | str:
    from skyhold.cli.render import marked

    if verdict is None:
        return "not tried"
    tried = f"{verdict.rounds} rounds of {verdict.clients} clients in {verdict.duration_s:.1f} s"
    if verdict.admitted:
        return marked(f"atomic in {tried}: it may vote", "good")
    return marked(f"not atomic enough to vote, in {tried}", "bad")

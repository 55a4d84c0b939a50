"""`skyhold bucket add`"""

from __future__ import annotations

import click

from skyhold.cli.command import Session, verb


@verb(
    click.Argument(["name"]),
    click.Argument(["url"]),
    click.Option(["--provider"], metavar="NAME", help="Who runs it, where the URL does not say (minio, r2, …)."),
    click.Option(["--region"], metavar="NAME", help="Where it is; policies speak of it."),
    click.Option(["--endpoint"], metavar="URL", help="Address of an S3-compatible or private service."),
    click.Option(["--credentials"], metavar="REF", help="chain, env:PREFIX, file:PATH or profile:NAME."),
    click.Option(["--path-style/--virtual-hosted"], default=None, help="How an S3 bucket is addressed."),
    click.Option(["--ca-file"], metavar="FILE", help="Certificates to trust for the endpoint."),
    click.Option(
        ["--allow-http"], is_flag=True, default=None, help="Permit a plain-HTTP endpoint in a trusted network."
    ),
    examples=(
        "skyhold bucket add gcs-eu gs://models-eu/skyhold --region europe-west4",
        "skyhold bucket add lab s3://models --endpoint https://minio.lab --provider minio --credentials env:LAB",
    ),
    exits=(2, 3, 4, 5, 6, 8, 9),
)
def command(session: Session, *, name: str, url: str, **options: object) -> None:
    """Add a bucket to the store. What the store holds already comes to it by `skyhold sync`."""
    given = {option: value for option, value in options.items() if value is not None}
    with session.store() as store:
        store.add_bucket(name, url, **given)
        buckets = store.configuration.locations
    session.output.show(
        {"bucket": next(bucket.to_json() for bucket in buckets if bucket.name == name)},
        quiet=[name],
        human=lambda: click.echo(f"Added bucket {name}; the store has {len(buckets)} now"),
    )
    session.output.next_step("skyhold sync   # bring it up to date")

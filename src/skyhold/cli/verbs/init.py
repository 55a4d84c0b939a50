"""`skyhold init`"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from skyhold.cli.arguments import policy_of, policy_options, refuse_memory
from skyhold.cli.command import Invocation, verb
from skyhold.cli.output import counted


@verb(
    click.Argument(["urls"], nargs=-1, required=True, metavar="URL…"),
    click.Option(["--name", "names"], multiple=True, metavar="NAME", help="Name of each bucket, in the order of URLs."),
    click.Option(["--encrypt"], is_flag=True, help="Seal everything, under the key of the settings or a passphrase."),
    click.Option(
        ["--key-file"],
        type=click.Path(path_type=Path, dir_okay=False),
        help="Seal everything under this key file, which is made where it is missing.",
    ),
    click.Option(["--passphrase"], is_flag=True, help="Seal under SKYHOLD_PASSPHRASE, or one that is asked for."),
    click.Option(
        ["--engine"],
        metavar="sqlite|buckets|etcds://…",
        help="Where the refs live: in the buckets, for every machine (default), on this machine alone (default of a "
        "single bucket that cannot vote), or in an etcd cluster.",
    ),
    *policy_options(),
    examples=(
        "skyhold init ./cloud-a ./cloud-b ./cloud-c",
        "skyhold init s3://models-eu/skyhold s3://models-us/skyhold gs://models/skyhold",
        "skyhold init s3://models-eu/skyhold gs://models-eu/skyhold az://account/models --providers 2",
        "skyhold init 's3://models?endpoint=https://minio.lab&region=lab' --key-file ~/keys/team.key",
    ),
    exits=(2, 4, 6, 8),
    changes=True,
)
def command(
    session: Invocation,
    *,
    urls: tuple[str, ...],
    names: tuple[str, ...],
    encrypt: bool,
    key_file: Path | None,
    passphrase: bool,
    engine: str | None,
    copies: str | None,
    providers: int | None,
    regions: tuple[str, ...],
    delta: str | None,
) -> None:
    """Make a store of these buckets.

    A bucket is a folder, s3://bucket/prefix, gs://bucket/prefix or az://account/container/prefix. It must exist (a
    folder is made) and hold no store yet. Its settings follow as a query of the URL: endpoint, region, provider,
    path_style, ca_file, allow_http, and credentials, which are a reference (chain, env:PREFIX, file:PATH,
    profile:NAME) and never stored themselves.

    At the end it reports what the loss of a bucket would cost.
    """
    from skyhold.cli.sealing import choose_keys
    from skyhold.registry import lifecycle
    from skyhold.storage.policy import Policy, loss_report

    refuse_memory(*urls)
    settings = session.settings()
    policy = policy_of(Policy(), copies=copies, providers=providers, regions=regions, delta=delta)
    keys = choose_keys(settings, encrypt=encrypt, key_file=key_file, passphrase=passphrase)
    named = names or None
    with lifecycle.init(
        urls, names=named, settings=settings, encrypt_with=keys.keks, policy=policy, engine=engine
    ) as made:
        buckets = made.configuration.locations
        losses = loss_report(buckets, made.configuration.policy)
        if made.engine == "sqlite":
            losses += _machine_report(made.bucket_names[0], asked=engine is not None)
        document = {"store": made.id, "sealed": made.sealed, "engine": made.engine, "losses": losses}
        document["buckets"] = buckets
        session.output.show(document, quiet=[made.id], human=lambda: _show(made.id, made.bucket_names, losses))
        for advice in keys.advice:
            session.output.next_step(advice)
        # What was typed has this machine's references, too; the rest may have come from the environment.
        place = urls[0] if "?" in urls[0] else buckets[0].full_url
        session.output.next_step(f"export SKYHOLD_STORE={shlex.quote(place)}")
        session.output.next_step("skyhold push team/model PATH")


def _machine_report(bucket_name: str, *, asked: bool) -> list[str]:
    """What it means that the refs live on this machine, as sentences."""
    alone = "The refs live on this machine alone (engine sqlite): every other machine is refused."
    if asked:
        return [alone, "To share the store, move them into the buckets: skyhold store engine set buckets"]
    return [
        alone,
        f"Bucket `{bucket_name}` cannot decide between machines, since its conditional puts did not pass the test: see "
        f"`skyhold bucket check {bucket_name}`. To share a store, make it of a bucket that passes.",
    ]


def _show(store_id: str, bucket_names: list[str], losses: list[str]) -> None:
    from skyhold.cli.render import line, marked

    line(
        "Made store ", marked(store_id, "id"), f" of {counted(len(bucket_names), 'bucket')}: {', '.join(bucket_names)}"
    )
    for sentence in losses:
        line(f"  {sentence}")

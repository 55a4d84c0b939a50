"""`skyhold serve`"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

import click

from skyhold.cli.arguments import Reference, reference_argument
from skyhold.cli.command import Invocation, verb
from skyhold.cli.extras import need_serving
from skyhold.errors import InvalidInput

if TYPE_CHECKING:
    from skyhold.deployment.served_version import Swapped, Wanted
    from skyhold.errors import SkyholdError
    from skyhold.registry.views import EventView
    from skyhold.serving.models import Models
    from skyhold.serving.server import Listening
    from skyhold.serving.signature import Signature


@verb(
    reference_argument(),
    click.Option(["--host"], default="127.0.0.1", show_default=True, help="The address to listen on."),
    click.Option(
        ["--port"], type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free port."
    ),
    click.Option(["--name"], metavar="NAME", help="The name in the protocol; else the last part of the repository."),
    click.Option(["--follow"], is_flag=True, help="Serve the next version when the reference moves, without a pause."),
    click.Option(["--allow-pickle"], is_flag=True, help="Load pickles that the version declares: they can run code."),
    click.Option(["--force-public"], is_flag=True, help="Listen to other machines without a token."),
    examples=(
        "skyhold serve fraud/scorer@champion",
        "skyhold serve fraud/scorer@champion --follow --port 9000",
        "SKYHOLD_SERVE_TOKEN=… skyhold serve fraud/scorer@v1.2 --host 0.0.0.0",
    ),
    exits=(2, 3, 4, 6, 7, 8, 10),
    answers=False,
    reads=True,
)
def command(
    session: Invocation,
    *,
    reference: Reference,
    host: str,
    port: int,
    name: str | None,
    follow: bool,
    allow_pickle: bool,
    force_public: bool,
) -> None:
    """Answer requests to a version by the Open Inference Protocol (v2) over HTTP.

    The version is pulled, every byte checked, into the cache of this machine; a version that is named by its full id
    and is there already needs no bucket. Its runtime and its signature are found from its files (`serving.toml` in the
    version overrides them), and the model is warmed up before the first request.

    With --follow the next version is fetched, loaded and warmed up beside the one that answers, and takes its place
    between two requests. A version that cannot be loaded changes nothing. The version before stays loaded, so moving
    the reference back takes effect at once.

    It listens to this machine alone, unless --host names another address; then requests need the bearer token in
    SKYHOLD_SERVE_TOKEN. SIGTERM answers what has begun, and ends. Metrics for Prometheus are at /metrics.
    """
    need_serving("uvicorn", "starlette")
    from skyhold.deployment.served_version import last_event, update, wanted_version
    from skyhold.serving.metrics import ServerMetrics
    from skyhold.serving.models import Models
    from skyhold.serving.runtimes.runtime import Permissions
    from skyhold.serving.server import Listening, open_socket, run_server

    if follow and reference.is_digest:
        raise InvalidInput(f"{reference} is one version, and never moves", hint="Leave out --follow, or name an alias")
    listening = Listening(host, port, os.environ.get("SKYHOLD_SERVE_TOKEN") or None, force_public)
    bound = open_socket(listening)
    models, stop = Models(ServerMetrics()), threading.Event()
    settings = session.settings()
    with session.store(offline=reference.is_digest) as store, bound:
        repository = store.repository(reference.repository)
        wanted = wanted_version(repository, reference.ref, settings, Permissions(pickle=allow_pickle), name)
        after = last_event(wanted.repository) if follow else None
        with session.progress() as progress:
            first = update(wanted, models, progress=progress)
        assert first is not None  # noqa: S101 (nothing answered before)
        follower = _follower(wanted, models, after, stop) if follow else None
        try:
            run_server(
                models,
                listening,
                bound,
                when_ready=lambda: _show(wanted, first, models, listening, bound.getsockname()[1]),
            )
        finally:
            stop.set()
            if follower is not None:
                follower.join(10)
            models.close()


def _follower(wanted: Wanted, models: Models, after: EventView | None, stop: threading.Event) -> threading.Thread:
    from skyhold.cli.render import short
    from skyhold.deployment.served_version import follow

    def swapped(done: Swapped) -> None:
        how = "still warm" if done.was_warm else "loaded"
        click.echo(f"{wanted.reference} moved: version {short(done.version)} answers now ({how})", err=True)

    def failed(error: SkyholdError) -> None:
        click.echo(f"warning: {error.message}; the version before it answers", err=True)

    thread = threading.Thread(
        target=lambda: follow(wanted, models, after, stop, swapped=swapped, failed=failed),
        name="skyhold-follow",
        daemon=True,
    )
    thread.start()
    return thread


def _show(wanted: Wanted, first: Swapped, models: Models, listening: Listening, port: int) -> None:
    from skyhold.cli.render import line, marked, properties, short

    host = f"[{listening.host}]" if ":" in listening.host else listening.host
    url = f"http://{host}:{port}"
    signature = models.find(wanted.name).model.signature
    line("Serving ", marked(f"{wanted.repository.name}@{wanted.reference}", "name"), " at ", marked(url, "id"))
    properties(
        [
            ("model", f"{wanted.name}, version {short(first.version)}"),
            ("digest", first.digest),
            ("runtime", f"{first.runtime} ({first.why})"),
            ("inputs", ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in signature.inputs)),
            ("outputs", ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in signature.outputs)),
        ]
    )
    line()
    line(_curl(f"{url}/v2/models/{wanted.name}/infer", signature, listening.token is not None))
    sys.stdout.flush()


def _curl(url: str, signature: Signature, needs_token: bool) -> str:
    """A request to paste: zeros, or empty texts."""
    import json
    import math

    inputs = []
    for spec in signature.inputs:
        shape = [max(size, 1) for size in spec.shape]
        zero: object = {"BYTES": "", "BOOL": False}.get(spec.datatype, 0)
        data = [zero] * min(math.prod(shape), 10_000)
        inputs.append({"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": data})
    token = ' -H "Authorization: Bearer $SKYHOLD_SERVE_TOKEN"' if needs_token else ""
    return f"curl {url}{token} -d '{json.dumps({'inputs': inputs})}'"

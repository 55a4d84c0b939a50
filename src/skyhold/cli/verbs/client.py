"""`skyhold client`"""

from __future__ import annotations

import os
import sys
import time

import click

from skyhold.cli.command import Invocation, verb
from skyhold.cli.extras import need_serving
from skyhold.cli.output import print_stderr, printable
from skyhold.errors import InvalidInput


@verb(
    click.Argument(["url"]),
    click.Option(
        ["--input", "input_file"],
        metavar="FILE",
        required=True,
        help="A .json, .csv, .npy or .parquet file; - reads JSON from stdin.",
    ),
    click.Option(["--name", "model"], metavar="MODEL", required=True, help="The model, by its name in the protocol."),
    click.Option(
        ["--output", "outputs"], metavar="OUTPUT", multiple=True, help="An output to ask for; else those by default."
    ),
    click.Option(["--token-env"], metavar="VAR", help="Send the bearer token that is in this environment variable."),
    click.Option(["--binary"], is_flag=True, help="Send and ask for binary tensor data instead of JSON."),
    examples=(
        "skyhold client http://127.0.0.1:8080 --name scorer --input payments.csv",
        "skyhold client https://scorer.example.org --name scorer --input x.npy --binary --token-env SCORER_TOKEN",
    ),
    exits=(2, 3, 6, 7, 8),
)
def command(
    session: Invocation,
    *,
    url: str,
    input_file: str,
    model: str,
    outputs: tuple[str, ...],
    token_env: str | None,
    binary: bool,
) -> None:
    """Send a request from a file to a server of the Open Inference Protocol (v2).

    Any server of the protocol answers: `skyhold serve`, Triton, MLServer. The inputs of the model are read from the
    server first, and the file is converted to them as by `skyhold predict`. Redirects are refused.
    """
    need_serving()
    from skyhold.cli.outputs import as_csv, as_documents
    from skyhold.client import connect
    from skyhold.serving.input_file import read_input

    token = None
    if token_env is not None and not (token := os.environ.get(token_env)):
        raise InvalidInput(f"The environment variable {token_env!r} is not set or empty")
    with connect(url, token=token) as client:
        inputs = read_input(input_file, sys.stdin.buffer, client.metadata(model).inputs)
        began_s = time.perf_counter()
        answer = client.infer(model, inputs, outputs, binary=binary)
        seconds = time.perf_counter() - began_s
        version = client.answered_version

    def human() -> None:
        for row in as_csv(answer).splitlines():
            click.echo(printable(row))
        print_stderr(printable(f"{model}, version {version or 'unknown'}, answered in {seconds * 1000:.1f} ms"))

    result = {"model": model, "version": version, "seconds": seconds, "outputs": as_documents(answer)}
    session.output.show(result, quiet=as_csv(answer).splitlines(), human=human)

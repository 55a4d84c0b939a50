"""`skyhold predict`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skyhold.cli.arguments import Reference, reference_argument
from skyhold.cli.command import Invocation, verb
from skyhold.cli.extras import need_serving
from skyhold.cli.output import printable

if TYPE_CHECKING:
    from skyhold.serving.model import Model
    from skyhold.serving.tensor import Array
    from skyhold.storage.progress import Progress

ROWS_OF_BATCH = 1024
TIMEOUT_S = 3600.0


@verb(
    reference_argument(),
    click.Option(
        ["--input", "input_file"],
        metavar="FILE",
        required=True,
        help="A .json, .csv, .npy or .parquet file; - reads JSON from stdin.",
    ),
    click.Option(
        ["--name", "names"], metavar="OUTPUT", multiple=True, help="An output to return; else those by default."
    ),
    click.Option(["--output", "output_file"], metavar="FILE", help="Write the outputs there, as CSV."),
    click.Option(["--allow-pickle"], is_flag=True, help="Load pickles that the version declares: they can run code."),
    examples=(
        "skyhold predict fraud/scorer@champion --input payments.csv",
        "skyhold predict fraud/scorer@v1.2 --input payments.parquet --output scores.csv",
        "skyhold predict fraud/scorer@champion --input - --name predict_proba --json < request.json",
    ),
    exits=(2, 3, 6, 7, 8, 10),
    reads=True,
)
def command(
    session: Invocation,
    *,
    reference: Reference,
    input_file: str,
    names: tuple[str, ...],
    output_file: str | None,
    allow_pickle: bool,
) -> None:
    """Run a version once, without a server.

    The version is pulled and loaded as by `skyhold serve`. Columns of the file belong to the inputs of their names;
    where the model has one input with two dimensions, all columns together are that input. JSON is a request of the
    protocol, an object of columns, or a list of rows. The outputs are printed as CSV.
    """
    need_serving()
    from skyhold.cli.outputs import as_csv, as_documents, write_file
    from skyhold.deployment.served_version import open_version, wanted_version
    from skyhold.serving.input_file import read_input
    from skyhold.serving.runtimes.runtime import Permissions

    settings = session.settings()
    with session.store(offline=reference.is_digest) as store, session.progress() as progress:
        repository = store.repository(reference.repository)
        wanted = wanted_version(repository, reference.ref, settings, Permissions(pickle=allow_pickle))
        model = open_version(wanted, progress=progress)
        try:
            inputs = read_input(input_file, sys.stdin.buffer, model.signature.inputs)
            outputs = _predicted(model, inputs, list(names), progress)
        finally:
            model.close()
    if output_file is not None:
        write_file(Path(output_file), outputs)
    result = {
        "model": model.origin.name,
        "version": model.origin.version,
        "runtime": model.runtime,
        "outputs": as_documents(outputs),
    }
    lines = as_csv(outputs).splitlines() if output_file is None else [f"Wrote {output_file}"]

    def human() -> None:
        for line in lines:
            click.echo(printable(line))

    session.output.show(result, quiet=lines if output_file is None else (), human=human)


def _predicted(model: Model, inputs: dict[str, Array], names: list[str], progress: Progress) -> dict[str, Array]:
    """The outputs of all rows, in batches where the model takes any number of rows."""
    import numpy as np

    checked = model.signature.checked_inputs(inputs)
    rows = len(next(iter(checked.values()))) if model.signature.is_batched else 0
    if rows <= ROWS_OF_BATCH:
        return dict(model.submit(checked, names, timeout_s=TIMEOUT_S).result())
    parts: list[dict[str, Array]] = []
    progress.begin("predict", sum(array.nbytes for array in checked.values()))
    for start in range(0, rows, ROWS_OF_BATCH):
        batch = {name: array[start : start + ROWS_OF_BATCH] for name, array in checked.items()}
        parts.append(dict(model.submit(batch, names, timeout_s=TIMEOUT_S).result()))
        progress.advance(sum(array.nbytes for array in batch.values()))
    progress.end()
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

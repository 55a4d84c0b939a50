"""`skyhold tensor`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from skyhold.cli.arguments import Reference, reference_argument
from skyhold.cli.command import Invocation, verb

if TYPE_CHECKING:
    from skyhold.registry.tensors import TensorSummary

FIRST = 8


@verb(
    reference_argument(),
    click.Argument(["name"], metavar="NAME"),
    click.Option(["--file"], metavar="PATH", help="The file that it is in, where several have a tensor of the name."),
    click.Option(
        ["--npy"],
        type=click.Path(path_type=Path, readable=False),
        metavar="FILE",
        help="Also write its values to this new file, as NumPy stores them.",
    ),
    examples=(
        "skyhold tensor fraud/scorer@champion head.weight",
        "skyhold tensor meta/llama@main model.norm.weight --npy norm.npy",
    ),
    exits=(2, 3, 4, 6, 7, 8, 10),
    reads=True,
)
def command(session: Invocation, *, reference: Reference, name: str, file: str | None, npy: Path | None) -> None:
    """Show a tensor: type, shape, range, mean, NaNs and infinities, the first values.

    Only its own bytes are fetched, and checked, in bounded memory. Range and mean are those of the finite values. Types
    that NumPy lacks (BF16, 8-bit floats) become float32, which holds each of their values. Without @REF it is the
    branch `main`.
    """
    with session.store(offline=reference.is_digest) as store:
        repository = store.repository(reference.repository)
        summary = repository.summarize_tensor(reference.ref, name, file=file, first=FIRST, npy=npy)
    session.output.show(summary, quiet=[summary.tensor.name], human=lambda: _show(summary, npy))


def _show(summary: TensorSummary, npy: Path | None) -> None:
    from skyhold.cli.render import line, marked, properties
    from skyhold.units import format_bytes

    tensor = summary.tensor
    line(marked(tensor.name, "name"))
    numbers = {"minimum": summary.minimum, "maximum": summary.maximum, "mean": summary.mean}
    rest = f", … ({summary.elements} in all)" if summary.elements > len(summary.first) else ""
    properties(
        [
            ("type", tensor.dtype),
            ("shape", " × ".join(map(str, tensor.shape)) or "a single value"),
            ("file", tensor.file),
            ("size", format_bytes(tensor.size_bytes)),
            *((name, "" if value is None else _shown(value)) for name, value in numbers.items()),
            ("NaN", str(summary.nans) if summary.nans else ""),
            ("infinite", str(summary.infinities) if summary.infinities else ""),
            ("values", ", ".join(_shown(value) for value in summary.first) + rest),
            ("written to", "" if npy is None else str(npy)),
        ]
    )


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

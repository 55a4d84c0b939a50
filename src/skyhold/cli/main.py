"""The entry point: runs a command and turns whatever it raises into a message and an exit status."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

import click

from skyhold import error_codes
from skyhold.cli.exits import CLOSED_PIPE, INTERRUPTED
from skyhold.cli.group import skyhold
from skyhold.cli.interrupt import Interruption
from skyhold.cli.output import discard_stdout, print_stderr, printable, write_json
from skyhold.cli.program import COMPLETION_VARIABLE, PROGRAM
from skyhold.errors import InvalidInput, SkyholdError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `skyhold` with `arguments` and return the exit status. By default they are the process's own, and then the
    process is ours: Ctrl-C ends it (`Interruption.watch`)."""
    whole_process = arguments is None
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if whole_process:
        _open_standard_streams()
    # numpy's linear algebra is not used here, yet its threads would start with it and spin for work on the cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Imports make many objects and no garbage: collecting it at the usual pace is a tenth of a short command's time.
    gc.set_threshold(100_000, 50, 100)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a locale that lacks a character must not end a command half-way
            stream.reconfigure(errors="backslashreplace")
    if COMPLETION_VARIABLE in os.environ:
        from skyhold.cli.completion import answer_shell

        answer_shell()
    interruption = Interruption(lambda: _interrupted("--json" in arguments))
    if whole_process:
        interruption.watch()
    try:
        status = _run(arguments, interruption)
        sys.stdout.flush()
        if whole_process:
            gc.freeze()  # Python would look through all objects once more before it ends: 30 ms
    except BrokenPipeError:
        discard_stdout()
        return CLOSED_PIPE
    except OSError as error:
        discard_stdout()
        unwritable = f"Standard output cannot be written: {error.strerror}"
        return _fail(SkyholdError(unwritable, code=error_codes.OUTPUT_UNWRITABLE), arguments)
    return status


def _open_standard_streams() -> None:
    """Where the caller has closed a standard stream (`2>&-`), open /dev/null in its place. Otherwise the next file
    that is opened would get its number, and with it the messages of any library."""
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _run(arguments: list[str], interruption: Interruption) -> int:  # noqa: PLR0911 - one return for each ending
    try:
        with _requests_shown(arguments), skyhold.make_context(PROGRAM, arguments) as context:
            skyhold.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except (KeyboardInterrupt, EOFError, click.Abort):
        interruption.print_message()
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as help_text:
        help_text.show()
        return InvalidInput.exit_status
    except click.ClickException as error:
        return _fail(_usage_error(error), arguments)
    except SkyholdError as error:
        return _fail(error, arguments)
    except OSError as error:
        if error.filename is None:
            print(flush=True)  # raises again where stdout was what failed
        return _fail(_defect(error), arguments)
    except Exception as error:  # noqa: BLE001 - the outermost frame: a defect is reported like any other error
        return _fail(_defect(error), arguments)
    return 0


def _requests_shown(arguments: list[str]) -> AbstractContextManager[None]:
    if "--verbose" not in arguments:
        return nullcontext()
    from skyhold.cli.verbosity import requests_shown

    return requests_shown()


def _fail(error: SkyholdError, arguments: list[str]) -> int:
    if "--verbose" in arguments:
        import traceback

        print_stderr(printable_lines("".join(traceback.format_exception(error))))
    if "--json" in arguments:
        with suppress(OSError):
            write_json({"error": error.to_json()}, err=True)
        return error.exit_status
    print_stderr(f"{click.style('error:', fg='red', bold=True)} {printable_lines(error.message)}")
    if error.hint:
        print_stderr(f"{click.style('hint:', fg='cyan')} {printable_lines(error.hint)}")
    return error.exit_status


def printable_lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def _usage_error(error: click.ClickException) -> InvalidInput:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else PROGRAM
    return InvalidInput(error.format_message().rstrip("."), code=error_codes.USAGE, hint=f"See `{path} --help`")


def _defect(error: Exception) -> SkyholdError:
    report = SkyholdError(
        f"Skyhold failed in a way that it should not: {type(error).__name__}: {error}",
        code=error_codes.DEFECT,
        hint="Run the command again with `--verbose` and report what it prints",
    )
    report.__cause__ = error
    return report


def _interrupted(as_json: bool) -> None:
    message = "Interrupted; what has arrived is kept, and running the same command again continues"
    if as_json:
        write_json({"error": {"class": "Interrupted", "code": error_codes.INTERRUPTED, "message": message}}, err=True)
    else:
        click.echo(f"\n{message}", err=True)


if __name__ == "__main__":
    sys.exit(main())

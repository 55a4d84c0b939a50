"""The exit statuses of `skyhold`, one per class of error, for scripts to act on."""

from __future__ import annotations

from typing import Final

from skyhold import errors

DEFECT: Final = 1
INTERRUPTED: Final = 130
CLOSED_PIPE: Final = 141

MEANINGS: Final = {
    0: "done",
    DEFECT: "a defect of Skyhold, or nothing more exact is known",
    errors.InvalidInput.exit_status: "wrong input or wrong usage; nothing was changed",
    errors.NotFound.exit_status: "the named thing does not exist",
    errors.AlreadyExists.exit_status: "the name is taken",
    errors.Conflict.exit_status: "another client changed it first; nothing was changed",
    errors.PermissionDenied.exit_status: "credentials or keys are missing, wrong or not enough",
    errors.QuotaExceeded.exit_status: "a limit of space, rate or size was reached",
    errors.Unavailable.exit_status: "a service cannot be reached now; try again",
    errors.OutcomeUnknown.exit_status: "a reply was lost; check the state before you repeat",
    errors.Corrupt.exit_status: "damaged bytes were found, and not returned",
    INTERRUPTED: "interrupted (Ctrl-C)",
    CLOSED_PIPE: "the reader of the output has gone",
}

"""The profiles of AWS's shared files, `~/.aws/config` and `~/.aws/credentials`."""

from __future__ import annotations

import configparser
import os

from skyhold import error_codes
from skyhold.buckets.user_path import expand_user
from skyhold.errors import InvalidInput


def profile_settings(name: str) -> dict[str, str]:
    """All settings of a profile, from both shared files; empty where there is none. Also has `region`."""
    settings: dict[str, str] = {}
    for variable, default, section in (
        ("AWS_CONFIG_FILE", "~/.aws/config", name if name == "default" else f"profile {name}"),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", name),
    ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(expand_user(os.environ.get(variable) or default, variable), encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise InvalidInput(
                f"The file of {variable} is no INI file", code=error_codes.INVALID_CREDENTIALS
            ) from error
        if parser.has_section(section):
            settings |= dict(parser.items(section))
    return settings

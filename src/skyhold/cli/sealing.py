"""The keys under which `skyhold init` seals a store, from options, settings or a question."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from skyhold import error_codes
from skyhold.buckets.user_path import absolute, expand_user
from skyhold.errors import InvalidInput
from skyhold.security.keys import KeyEncryptionKey, KeyFile, Passphrase
from skyhold.store.settings import Settings


@dataclass(frozen=True, slots=True)
class ChosenKeys:
    """Key-encryption keys (none for a store that is not sealed), and what the user must do about them."""

    keks: Sequence[KeyEncryptionKey]
    advice: Sequence[str]


def choose_keys(settings: Settings, *, encrypt: bool, key_file: Path | None, passphrase: bool) -> ChosenKeys:
    """The keys of a new store. A key file that is missing is generated.

    Raises `InvalidInput` code `key_needed` where sealing is requested and no key is given, and what the keys raise.
    """
    keks: list[KeyEncryptionKey] = []
    advice: list[str] = []
    if encrypt and key_file is None and not passphrase:
        key_file = settings.key_file
        passphrase = settings.passphrase is not None
        if key_file is None and not passphrase:
            raise InvalidInput(
                "`--encrypt` needs a key and none is set",
                code=error_codes.KEY_NEEDED,
                hint="Add `--key-file FILE` or `--passphrase`, or set SKYHOLD_KEY_FILE or SKYHOLD_PASSPHRASE",
            )
    if key_file is not None:
        key_file = absolute(expand_user(key_file, "--key-file"))
        made = not key_file.exists()
        keks.append(KeyFile.generate(key_file) if made else KeyFile.load(key_file, insecure=settings.insecure_key_file))
        if made:
            advice.append(f"Keep a copy of the new key file {key_file} elsewhere: without a key nothing can be read")
        if settings.key_file != key_file:
            advice.append(f'export SKYHOLD_KEY_FILE={key_file}, or `key_file = "{key_file}"` in skyhold.toml')
    if passphrase:
        keks.append(Passphrase(settings.passphrase or _ask()))
        if settings.passphrase is None:
            advice.append("Set SKYHOLD_PASSPHRASE where the store is used; without a key nothing can be read")
    return ChosenKeys(keks, advice)


def _ask() -> str:
    if not sys.stdin.isatty():
        raise InvalidInput(
            "`--passphrase` cannot ask for one here",
            code=error_codes.PASSPHRASE_NEEDED,
            hint="Set SKYHOLD_PASSPHRASE, or use a terminal",
        )
    answer: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
    return answer

"""The keys of a store: those that this machine's settings name, and those with which frames are opened."""

from __future__ import annotations

from skyhold.codec.frame import DataKey, FrameKeys
from skyhold.security.keys import KeyEncryptionKey, KeyFile, Passphrase, StoreKeys
from skyhold.store.settings import Settings


def key_encryption_keys(settings: Settings) -> list[KeyEncryptionKey]:
    """The keys that this machine's settings name."""
    keks: list[KeyEncryptionKey] = []
    if settings.key_file is not None:
        keks.append(KeyFile.load(settings.key_file, insecure=settings.insecure_key_file))
    if settings.passphrase is not None:
        keks.append(Passphrase(settings.passphrase))
    return keks


def frame_keys(keys: StoreKeys) -> FrameKeys:
    """The keys of a store as the codec takes them."""
    by_number = {number: DataKey(keys.mac_key(number), keys.seal_key(number)) for number in keys.data_keys}
    return FrameKeys(by_number, keys.newest, keys.sealed)

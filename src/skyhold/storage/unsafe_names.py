"""Names of files that other programs execute or read settings or credentials from, because of their path alone. Pure.

A version comes from another party, and is pulled into a working folder: a `.git/config` in it would run commands at the
next `git status`, a `skyhold.toml` would send credentials to another endpoint. So `pull` does not write such names and
`push` leaves them out, unless the user allows it.

On the list is what a program reads *by itself*, from the working folder, a folder above, or the home folder. Not on it
is what a user has to name, run or import (`Makefile`, `setup.py`, `modeling_llama.py`), what selects but does not run
(`.gitattributes`, which every model of Hugging Face has and whose commands come from Git's own configuration;
`.gitignore`, `.python-version`), and `*.pth`, which is the ending of weights.
"""

from __future__ import annotations

import re
from typing import Final

from skyhold.storage.paths import plainest

_FOLDERS: Final = {
    "settings of a version control system": (".git", ".hg", ".svn", ".bzr", ".jj"),
    "settings or credentials of a cloud or a cluster": (".aws", ".azure", ".gcloud", ".kube", ".docker", ".oci"),
    "keys of a person": (".ssh", ".gnupg"),
    "settings of a person's programs": (".config", ".local", ".cargo", ".ipython", ".jupyter"),
    "settings of an editor, which may run commands": (".vscode", ".idea", ".devcontainer"),
    "the marker of a bucket of Skyhold": (".skyhold",),
}
_FILES: Final = {
    "settings of Skyhold": ("skyhold.toml", ".skyholdignore"),
    "settings of a version control system": (".gitconfig", ".gitmodules", ".lfsconfig", ".hgrc"),
    "credentials": (
        ".netrc", "_netrc", ".pypirc", ".npmrc", ".yarnrc", ".yarnrc.yml", ".git-credentials", ".pgpass", ".my.cnf",
        ".boto", ".s3cfg",
    ),
    "settings of a program for transfers": (".curlrc", ".wgetrc", ".condarc"),
    "variables of the environment": (".envrc", "mise.toml", ".mise.toml"),
    "commands that a shell runs when it starts": (
        ".profile", ".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".zshrc", ".zshenv", ".zprofile",
        ".zlogin", ".zlogout", ".kshrc", ".cshrc", ".tcshrc", ".login", ".logout", ".inputrc", ".xprofile", ".xinitrc",
    ),
    "commands that a program runs when it starts": (
        ".vimrc", ".gvimrc", ".exrc", ".nvimrc", ".gdbinit", ".lldbinit", ".pdbrc", ".tmux.conf", ".screenrc",
        "sitecustomize.py", "usercustomize.py", ".htaccess", "autorun.inf",
    ),
}  # fmt: skip
_FOLDER_REASONS: Final = {name: reason for reason, names in _FOLDERS.items() for name in names}
_FILE_REASONS: Final = {name: reason for reason, names in _FILES.items() for name in names}
_ENVIRONMENT: Final = re.compile(r"\.env(\..+)?")
_SHORT: Final = re.compile(r"(git|gitmod|gi[0-9a-f]{4})~[0-9]")
"""What NTFS may call `.git` and `.gitmodules` by a short name."""


def unsafe_name(path: str) -> str | None:
    """What a file of a version could steer by its path, as the end of a sentence, or None. Every part is taken in its
    plainest form: without regard to case, and to what HFS+ and NTFS leave out of a name."""
    parts = [plainest(part) for part in path.split("/")]
    for part in parts:
        if _SHORT.fullmatch(part):
            return _FOLDER_REASONS[".git"]
        if part in _FOLDER_REASONS:
            return _FOLDER_REASONS[part]
    if _ENVIRONMENT.fullmatch(parts[-1]):
        return "variables of the environment"
    return _FILE_REASONS.get(parts[-1])

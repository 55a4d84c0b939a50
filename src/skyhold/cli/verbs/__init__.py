"""The commands, one a file, in the fixed order: the decorator with examples and exit statuses, options, the function.

This table is all that `skyhold --help` and completion need; a command's module is imported when it is called.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Verb(NamedTuple):
    """A command without its module: the words that call it and one line for listings. A verb with several words
    belongs to the group of its first word."""

    words: str
    summary: str
    section: str

    @property
    def module(self) -> str:
        return "skyhold.cli.verbs." + self.words.replace(" ", "_")


START: Final = "Make or join a store"
VERSIONS: Final = "Versions"
REFS: Final = "Refs"
SERVING: Final = "Serve"
CARE: Final = "Care"

VERBS: Final = (
    Verb("init", "Make a store of these buckets.", START),
    Verb("connect", "Join an existing store.", START),
    Verb("recover", "Bring a store's refs back from a surviving bucket.", START),
    Verb("push", "Store a folder, file or archive as a new version.", VERSIONS),
    Verb("pull", "Fetch a version, some of its files, or single tensors.", VERSIONS),
    Verb("log", "Show the history of a ref as a graph.", VERSIONS),
    Verb("show", "Show one version with all its metadata.", VERSIONS),
    Verb("cat", "Write a file of a version to stdout.", VERSIONS),
    Verb("tensor", "Show a tensor: type, shape, range, first values.", VERSIONS),
    Verb("diff", "Compare two versions: files, tensors, metrics, parameters.", VERSIONS),
    Verb("events", "Show what was changed, by whom and why.", VERSIONS),
    Verb("list", "List the repositories.", VERSIONS),
    Verb("search", "Find versions by name, ref, tag or metric.", VERSIONS),
    Verb("attach", "Add metrics and notes to a version.", VERSIONS),
    Verb("repository create", "Make a repository.", VERSIONS),
    Verb("repository rename", "Rename a repository; nothing is rewritten.", VERSIONS),
    Verb("repository delete", "Delete a repository; it can be brought back.", VERSIONS),
    Verb("repository undelete", "Bring a deleted repository back.", VERSIONS),
    Verb("repository policy", "Show or change a repository's policy.", VERSIONS),
    Verb("ref list", "List branches, tags and aliases.", REFS),
    Verb("ref set", "Create or move refs, several at once or none.", REFS),
    Verb("ref delete", "Delete refs.", REFS),
    Verb("ref history", "Show every move of the refs.", REFS),
    Verb("tag", "Give a version a permanent name.", REFS),
    Verb("branch list", "List the branches.", REFS),
    Verb("branch create", "Create a branch.", REFS),
    Verb("branch delete", "Delete a branch.", REFS),
    Verb("rollback", "Move a ref back to where it was.", REFS),
    Verb("serve", "Answer requests to a version over HTTP.", SERVING),
    Verb("predict", "Run a version once, without a server.", SERVING),
    Verb("client", "Send a request from a file to a model server.", SERVING),
    Verb("bucket add", "Add a bucket to the store.", CARE),
    Verb("bucket list", "List the store's buckets.", CARE),
    Verb("bucket remove", "Take a bucket out of the store.", CARE),
    Verb("bucket check", "Test a bucket: access, permissions, speed, harmful rules.", CARE),
    Verb("store voters show", "Show who votes, how each answers, and the last decisions.", CARE),
    Verb("store voters add", "Give buckets of the store a vote.", CARE),
    Verb("store voters remove", "Take the vote of buckets, which stay in the store.", CARE),
    Verb("store voters replace", "Admit a voter again, or put another bucket in its place.", CARE),
    Verb("store engine show", "Show where the refs live.", CARE),
    Verb("store engine set", "Move the refs to another engine, with their whole history.", CARE),
    Verb("status", "Show buckets and repositories: reachable, durable, lagging.", CARE),
    Verb("health", "Ask whether every bucket and voter answers.", CARE),
    Verb("sync", "Bring lagging buckets up to date.", CARE),
    Verb("verify", "Check what the buckets hold.", CARE),
    Verb("repair", "Replace damaged and missing replicas from good ones.", CARE),
    Verb("doctor", "Examine this machine's set-up.", CARE),
    Verb("completion", "Print the completion script of a shell.", CARE),
)

GROUPS: Final = {
    "repository": "Make, rename, delete repositories; set their policy.",
    "ref": "List, move and delete refs; see their history.",
    "branch": "List, create and delete branches.",
    "bucket": "Add, list, remove and check buckets.",
    "store": "Show and change where the refs live and who votes.",
    "store voters": "Show, add, remove and replace voters.",
    "store engine": "Show where the refs live, or move them.",
}
"""Groups of verbs, with their line for listings."""

"""Every kind of object of a store, damaged in every way, in one, two and all of its buckets; and what each command then
has to do. `python -m tests.hostile` runs all cells, `--write-table` writes the rules into `docs/security.md`."""

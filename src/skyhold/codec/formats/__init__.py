"""One module per file format that names its tensors: each reads a header and returns where the tensors are."""

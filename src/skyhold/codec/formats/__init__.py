"""One module per file format that names its tensors: each reads a header and says where the tensors lie."""

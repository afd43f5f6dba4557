"""The packed file: encodings, operators, packing, unpacking, metadata and self-tests."""

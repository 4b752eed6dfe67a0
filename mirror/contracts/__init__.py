"""The JSON files between the scripts, one module a document."""

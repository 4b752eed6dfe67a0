"""A photo library: every face in one store, persons, names and corrections, duplicates."""

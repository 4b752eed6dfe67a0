"""A small world whose truth is known: rendered heads and candidate sets with planted faults."""

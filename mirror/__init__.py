"""The library behind the scripts. Its rooms import downwards only, in the order that CONTRIBUTING.md gives."""

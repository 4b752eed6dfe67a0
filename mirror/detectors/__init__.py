"""Model files, read without running anything that they name, and the networks they become."""

"""The bootstrap loop: its steps, its state, merging, stop rules, and configuration."""

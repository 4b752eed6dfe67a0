"""Packages for avatar services: the pictures of a dataset that fit, cut and told."""

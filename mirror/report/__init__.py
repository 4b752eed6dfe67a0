"""The pages that people look at, made from templates."""

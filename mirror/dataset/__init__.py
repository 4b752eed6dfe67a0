"""What a dataset holds and lacks: gap types, sensors, checks, pixels, generated batches."""

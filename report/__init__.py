"""The pages people look at. They draw what `utils.table` and `utils.contracts` hold and measure nothing."""

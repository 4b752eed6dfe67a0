"""The pages people look at. They draw what `utils.table` and `mirror.contracts` hold and measure nothing."""

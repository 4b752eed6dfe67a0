"""The pages people look at. They draw what `mirror.faces.table` and `mirror.contracts` hold and measure nothing."""

"""The figures: functions that the decorator `plot` lists. Where the data does not allow a figure, it raises UserError."""

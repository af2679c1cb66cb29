"""The figures: a function each, named in plots.PLOTS. Where the data does not allow one it raises UserError and says why."""

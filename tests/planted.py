"""Changes that are planted in a model's file, for comparisons of revisions."""

OTHER = """
made = build


def build():
    adapter = made()
    plain = type(adapter.module)

    class Other(plain):
        def logits(self, x_BTC):
            return 1.5 * plain.logits(self, x_BTC) + 0.1

    adapter.module.__class__ = Other
    return adapter
"""
"""Comes after the function `build` of a built-in model, which then computes something else."""

"""How cells are shown: terminal, figures, report. A view computes no number."""

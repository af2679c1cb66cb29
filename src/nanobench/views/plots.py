"""Figures (placeholder while the core is tried)."""
PLOTS = {}
def draw_all(frame, folder): return []

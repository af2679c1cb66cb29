"""Models behind the Adapter contract; one file per architecture, sizes in presets.toml."""

"""The local cache of Hugging Face's hub, read as plain paths: the control process imports no library of theirs."""

import os
import re
from pathlib import Path

NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""A name on the hub: model, or owner/model."""


def folder() -> Path:
    """The cache's folder, as huggingface_hub finds it."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{base}/huggingface"
    path = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(path)).expanduser()


def snapshot(name: str) -> Path | None:
    """The folder with the files of a model's newest downloaded version; None if the cache does not have it."""
    if not NAME.fullmatch(name):
        return None
    model = folder() / f"models--{name.replace('/', '--')}"
    try:
        commit = (model / "refs" / "main").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    path = model / "snapshots" / commit
    return path if commit and path.is_dir() else None

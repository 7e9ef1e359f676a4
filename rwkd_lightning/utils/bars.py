"""Whether progress bars are shown: those of Lightning, of our own passes over the data, and of other libraries."""

from __future__ import annotations

_shown = True


def show(yes: bool) -> None:
    """Show bars, or none at all, in this process from now on."""
    global _shown
    if yes != _shown:
        from huggingface_hub.utils import disable_progress_bars, enable_progress_bars  # type: ignore[attr-defined]

        (enable_progress_bars if yes else disable_progress_bars)()
    _shown = yes


def shown() -> bool:
    """Whether they are; True unless `show` has said otherwise."""
    return _shown

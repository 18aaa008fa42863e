"""Silence from libraries that would talk over our progress and log."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """Only errors from transformers and peft, and none of their bars: the log and the progress say the rest."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # what one of them says of the other
            yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()

"""Numbers and texts as people read them."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text

from tts_engine.report.intervals import Interval

GOOD, FAIR = 0.8, 0.5
"""Scores from which on they are shown green and yellow."""

_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(number: float) -> str:
    """Three digits and a suffix.

    >>> short(0), short(950), short(12_345), short(2.5e12), short(0.25)
    ('0', '950', '12.3k', '2.5T', '0.25')
    """
    for unit, suffix in _UNITS:
        if abs(number) >= unit:
            return f"{number / unit:.3g}{suffix}" if abs(number) < 999.5 * unit else f"{number / unit:.0f}{suffix}"
    return f"{number:.3g}" if abs(number) < 999.5 else f"{number:.0f}"


def percent(share: float) -> str:
    """`75.0 %`."""
    return f"{100 * share:.1f} %"


def share(interval: Mapping[str, float]) -> str:
    """The bounds of an interval of a share: `53.1 to 88.8`."""
    return f"{100 * interval['low']:.1f} to {100 * interval['high']:.1f}"


def bounded(found: Interval | Mapping[str, float], form: str = ".1f", unit: float = 100.0) -> str:
    """A value with its interval, in percent or points unless `unit` says otherwise.

    >>> bounded({"value": 0.75, "low": 0.5312, "high": 0.888}), bounded({"value": 1, "low": -1, "high": 2}, "+.2f", 1)
    ('75.0 [53.1, 88.8]', '+1.00 [-1.00, +2.00]')
    """
    numbers = found.asdict() if isinstance(found, Interval) else found
    value, low, high = (f"{unit * numbers[name]:{form}}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def duration(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def one_line(text: str, width: int) -> str:
    """The text on one line, cut to `width` characters.

    >>> one_line("a\\n b c", 5), one_line("abcdef", 4)
    ('a b c', 'abc…')
    """
    flat = " ".join(text.split())
    return flat if len(flat) <= width else f"{flat[: width - 1]}…"


def score_text(score: float | None) -> Text:
    """A score, coloured; a dash where there is none."""
    if score is None:
        return Text("–", style="dim")
    return Text(f"{score:.2f}", style="green" if score >= GOOD else "yellow" if score >= FAIR else "red")

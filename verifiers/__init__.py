"""Verifiers, each a factory whose keyword arguments are its configuration. Import as `tts_engine.verifiers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tts_engine.judging import Verifier
from tts_engine.verifiers.calibrated import Calibrated, calibratable
from tts_engine.verifiers.chat_judge import ChatJudge
from tts_engine.verifiers.checker import Checker
from tts_engine.verifiers.confidence import Confidence
from tts_engine.verifiers.ensemble import Cascade, Ensemble
from tts_engine.verifiers.genprm import GenPRM
from tts_engine.verifiers.outcome import OutcomeReward
from tts_engine.verifiers.prm import DiscriminativePRM
from tts_engine.verifiers.thinkprm import ThinkPRM

VERIFIERS: Mapping[str, Callable[..., Verifier]] = MappingProxyType(
    {
        name: calibratable(factory)
        for name, factory in {
            "genprm": GenPRM,
            "prm": DiscriminativePRM,
            "thinkprm": ThinkPRM,
            "judge": ChatJudge,
            "outcome": OutcomeReward,
            "confidence": Confidence,
            "checker": Checker,
            "ensemble": Ensemble,
            "cascade": Cascade,
        }.items()
    }
)
"""By the name used in configurations; each takes `calibration` and `abstain` besides its own (calibrated.py)."""

__all__ = [
    "VERIFIERS",
    "Calibrated",
    "Cascade",
    "ChatJudge",
    "Checker",
    "Confidence",
    "DiscriminativePRM",
    "Ensemble",
    "GenPRM",
    "OutcomeReward",
    "ThinkPRM",
]

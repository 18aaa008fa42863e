"""Every error the engine raises, so that a caller can attribute a failure to the part that caused it.

    TTSError                      anything this package raises on purpose
    ├── UsageError                bad input from the user; `fix` names what to do; the CLI exits with code 2
    │   ├── ConfigError           a config file, key or value
    │   ├── DataError             a problem set, a journal or a checkpoint that cannot be read
    │   └── EndpointDown          what serves a model is gone; the run can be resumed when it is back
    ├── BackendError              a model call failed (network, engine, out of memory)
    │   └── ContextExceeded       the prompt does not fit the model's context
    ├── VerifierError             a verifier could not judge at all
    ├── SandboxError              the sandbox itself failed (never: the code that ran in it)
    ├── GraderError               an answer could not be graded
    └── BudgetExhausted           a scope of the ledger has nothing left; `scope` names which

A failure is attributed once, at the boundary where it happens, and recorded on the outcome. It is never
turned into a score.
"""

from __future__ import annotations


class TTSError(Exception):
    """Base of all errors that the engine raises on purpose."""


class UsageError(TTSError):
    """Bad input. `str(error)` is one sentence that says what is wrong and what to do about it."""


class ConfigError(UsageError):
    """A config file, key or value is wrong."""


class DataError(UsageError):
    """A problem set, journal, run folder or checkpoint cannot be used."""


class EndpointDown(UsageError):
    """What serves a model does not answer any more: the run ends, what was finished is kept, and it can be resumed."""


class BackendError(TTSError):
    """A model call failed."""


class ContextExceeded(BackendError):
    """The prompt and the tokens asked for do not fit the model's context window."""


class VerifierError(TTSError):
    """A verifier could not judge at all (an unparseable judgement is an invalid verdict instead)."""


class SandboxError(TTSError):
    """The sandbox itself failed; what the executed code does wrong is its feedback, not an error."""


class GraderError(TTSError):
    """An answer could not be graded."""


class BudgetExhausted(TTSError):
    """A scope of the ledger cannot pay for the call.

    Attributes:
        scope: name of the scope that ran dry, e.g. `run`, `problem:gsm8k-12`.
    """

    def __init__(self, scope: str, detail: str = "") -> None:
        super().__init__(f"budget of {scope} is exhausted{': ' + detail if detail else ''}")
        self.scope = scope


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none.

    >>> first_line(ValueError("no such key\\nat line 3")), first_line(KeyError())
    ('no such key', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""What can go wrong, as types.

    BakeoffError
    ├── Refused (ValueError)          bad input: nothing was spent; exit status 2
    │   ├── BadConfig                 a key or value of the config or of the settings
    │   ├── BadData                   rows, columns or labels of the data set
    │   ├── OutsideRoots              a path that this run may not read
    │   └── NotValidated              a judge whose grades prove nothing yet
    ├── MissingPart (RuntimeError)    an optional package or system program is not installed
    ├── EndpointError (RuntimeError)  a prompted LLM could not be asked at all
    ├── BudgetReached (RuntimeError)  the cap in dollars would have been passed
    ├── TrainingError (RuntimeError)  training stopped; the message says what was kept
    │   └── MemoryRanOut              of one of several processes; the next try takes fewer rows at once
    ├── ChildDied (RuntimeError)      a child process ended without a result
    ├── RunFailed (RuntimeError)      a run on another pool that this one waits for did not make its contenders
    ├── Stopped (RuntimeError)        the run was told to end; a rerun goes on where it was
    ├── IntegrityError (RuntimeError) bytes, hashes or a base model are not what a manifest says
    └── StoreError (RuntimeError)     the store refused, or could not be reached
        ├── LostRace                  another publisher moved the champion pointer first
        └── LostClaim                 another worker took over what this one was making

Every message says what, which value, and what to do.
"""


class BakeoffError(Exception):
    """Base of everything that Bakeoff raises on purpose; the command line shows its message without a traceback."""


class Refused(BakeoffError, ValueError):
    """Bad input, found before anything was spent."""


class BadConfig(Refused):
    """A key or value of the config or of the operator's settings."""


class BadData(Refused):
    """Rows, columns or labels of the data set."""


class OutsideRoots(Refused):
    """A path outside the roots that this run may read."""


class NotValidated(Refused):
    """A judge that was not shown to grade as people do; what it graded proves nothing, and publishes nothing."""


class MissingPart(BakeoffError, RuntimeError):
    """An optional package or system program is not installed."""


class EndpointError(BakeoffError, RuntimeError):
    """A prompted LLM could not be asked at all."""


class BudgetReached(BakeoffError, RuntimeError):
    """The cap in dollars would have been passed; what was paid for is kept."""


class TrainingError(BakeoffError, RuntimeError):
    """Training stopped; the message says what was kept."""


class MemoryRanOut(TrainingError):
    """Memory ran out in one of several processes that train together; the next try takes fewer rows at once."""


class ChildDied(BakeoffError, RuntimeError):
    """A child process ended without a result."""


class RunFailed(BakeoffError, RuntimeError):
    """A run on another pool that this one waits for did not make its contenders."""


class Stopped(BakeoffError, RuntimeError):
    """The run was told to end; a rerun goes on where it was."""


class IntegrityError(BakeoffError, RuntimeError):
    """Bytes, hashes or a base model are not what a manifest says."""


class StoreError(BakeoffError, RuntimeError):
    """The store refused, or could not be reached."""


class LostRace(StoreError):
    """Another publisher moved the champion pointer first."""


class LostClaim(StoreError):
    """Another worker took over what this one was making, since it had not been heard of for too long."""

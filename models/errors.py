"""Every error that `models` raises on purpose; each message is one line.

ModelError
  CardError       a card, or the weights it names, is missing or wrong
    NothingToCompare  there is no sha256 to verify a file against
  ContractError   a model file cannot be used, or can be read in several ways
  CacheError      there is no folder for downloaded weights and built engines
  DeviceError     the requested device does not load
  ProviderError   the provider failed during a run of a model
  DataError       a labelled data set is missing or wrong
    DataFaults    several faults of a data set, each of them a line
  TrainingError   a model cannot be trained: wrong settings or data, or a missing package
  ProposalError   proposals cannot be computed: a wrong picture, or a package that is not installed
  EvaluationError  results cannot be measured: wrong arrays, or a package that is not installed
"""

from collections.abc import Iterable

from models.text import shown


class ModelError(Exception):
    """Base of all errors about models; the message names the place, the fault and the remedy."""

    def __init__(self, text: object) -> None:
        """Make a line of at most 300 characters; it may quote text from an untrusted file."""
        super().__init__(shown(text))


class CardError(ModelError):
    """A card, or the weights it names, is missing or wrong."""


class NothingToCompare(CardError):  # noqa: N818 - the file may be right
    """There is no card, or it has no sha256, so the file can be neither confirmed nor refused."""


class ContractError(ModelError):
    """A model file cannot be used, or can be read in several ways."""


class CacheError(ModelError):
    """There is no folder for downloaded weights and built engines."""


class DeviceError(ModelError):
    """The requested device does not load."""


class ProviderError(ModelError):
    """The provider failed during a run, for any image: its session cannot be used any more."""


class DataError(ModelError):
    """A labelled data set is missing or wrong."""


class DataFaults(DataError):  # noqa: N818 - it is several errors
    """Several faults of a labelled data set, found together.

    Attributes:
        faults: a line for each.
    """

    def __init__(self, faults: Iterable[object]) -> None:
        """Make the line of the error: the first fault, and how many there are."""
        self.faults = tuple(map(shown, faults))
        more = len(self.faults) - 1
        text = self.faults[0] if self.faults else ""
        if more > 0:
            text = f"{shown(text, 260)} (and {more} more {'fault' if more == 1 else 'faults'})"
        super().__init__(text)


class ProposalError(ModelError):
    """Proposals cannot be computed: the picture is wrong, or a package is not installed."""


class EvaluationError(ModelError):
    """Results cannot be measured: an array is wrong, or a package is not installed."""


class TrainingError(ModelError):
    """A model cannot be trained: the settings or the data are wrong, or a package is missing."""

"""Every error that `models` raises on purpose; each message is one line.

ModelError
  CardError       a card, or the weights it names, is missing or wrong
    NothingToCompare  there is no sha256 to verify a file against
  ContractError   a model file cannot be used, or cannot be read in one way only
  CacheError      there is no folder for what is fetched or built
  DeviceError     the device asked for does not load
  ProviderError   the provider failed while it ran a model
"""

from models.text import shown


class ModelError(Exception):
    """Base of all errors about models; says where, what was expected, what was found, the fix."""

    def __init__(self, text: object) -> None:
        """Make a line of at most 300 characters; it may quote what an untrusted file says."""
        super().__init__(shown(text))


class CardError(ModelError):
    """A card, or the weights it names, is missing or wrong."""


class NothingToCompare(CardError):  # noqa: N818 - the file may be right
    """There is no card, or it has no sha256: nobody knows whether the file is the right one."""


class ContractError(ModelError):
    """A model file is not what it should be, or fits more than one reading."""


class CacheError(ModelError):
    """There is no folder for what is fetched or built."""


class DeviceError(ModelError):
    """The device asked for does not load."""


class ProviderError(ModelError):
    """The provider failed while it ran a model, whatever the picture: its session is of no use."""

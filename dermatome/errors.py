"""Errors that a user can act on: each message is one sentence on what is wrong, where, and what to do."""


class DermatomeError(Exception):
    """Base class of all errors caused by input, settings or the machine; any other error is a defect of Dermatome."""


class BadImage(DermatomeError):
    """An image or label file that cannot be used."""


class BadPage(DermatomeError):
    """An HPA page or gene list that cannot be read."""


class BadAnnotation(DermatomeError):
    """An ROI, mask, palette or outline file that does not fit its image or its format."""


class BadWeights(DermatomeError):
    """A weights file that is missing, damaged or for another purpose."""


class BadSetting(DermatomeError):
    """A setting that is out of its range, or that requires what this machine lacks."""


class FetchFailed(DermatomeError):
    """A download that did not arrive, or whose content is not what was requested."""


class MissingInput(DermatomeError):
    """A file of an earlier stage that does not exist yet."""


class StorageFailed(DermatomeError):
    """The data root is full or not writable, or an id would be a path outside of it."""

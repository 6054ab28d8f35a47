"""Errors a user can act on: each message is one sentence that says what is wrong, where, and what to do."""


class DermatomeError(Exception):
    """Base of every error that input, settings or the machine can cause; anything else is a defect of ours."""


class BadImage(DermatomeError):
    """An image or label file that cannot be used as it is."""


class BadPage(DermatomeError):
    """An HPA page or gene list that cannot be read."""


class BadAnnotation(DermatomeError):
    """An ROI, mask, palette or outline file that does not fit its image or its format."""


class BadWeights(DermatomeError):
    """A weights file that is missing, damaged or made for something else."""


class BadSetting(DermatomeError):
    """A setting out of its range, or one that asks for what this machine does not have."""


class FetchFailed(DermatomeError):
    """A download that did not arrive, or arrived as something else than asked for."""


class MissingInput(DermatomeError):
    """A file an earlier stage makes is not there yet."""


class StorageFailed(DermatomeError):
    """The data root is full, not writable, or an id would leave it."""

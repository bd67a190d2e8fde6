"""Errors of the package, one sentence each.

All of them are ``ValueError``: TerraTorch's registry hides any ``KeyError`` of a constructor
behind "could not be instantiated from any source".
"""


class DEOError(ValueError):
    """Base of every error that this package raises on purpose."""


class BandError(DEOError):
    """A band is missing, unknown, doubled, or the channel count does not fit."""


class ScalingError(DEOError):
    """Pixel values cannot be what the input contract declares."""


class WeightsError(DEOError):
    """A weight file is unreadable, partial, or made for another architecture."""


class DataError(DEOError):
    """A data folder or file cannot be used."""


class GeoreferenceError(DataError):
    """A raster has no coordinate reference system or transform where one is needed."""


class TrainingError(DEOError):
    """Pretraining cannot start or go on."""

"""What can be wrong with data."""


class DataError(ValueError):
    """A data set, a shard or a clip is not what it has to be."""


class MediaError(DataError):
    """A file cannot be opened or decoded, or it ends too early."""


class AlphaError(MediaError):
    """There is no alpha channel, or it says nothing because every pixel is opaque."""


class StoreError(DataError):
    """The place where data lies does not answer, or the cache before it cannot be used."""


class PremultipliedError(AlphaError):
    """Colour looks premultiplied, and nobody has said whether it is."""

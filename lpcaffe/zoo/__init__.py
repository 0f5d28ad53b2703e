"""Released networks: which there are (`entries`), and how their files are got (`fetching`, `download`, `packages`)."""

from lpcaffe.zoo.entries import Entry, entry, entry_with_weights, read_zoo, zoo
from lpcaffe.zoo.fetching import Fetched, fetch, fetch_entry
from lpcaffe.zoo.packages import Package

__all__ = [
    "Entry",
    "Fetched",
    "Package",
    "entry",
    "entry_with_weights",
    "fetch",
    "fetch_entry",
    "read_zoo",
    "zoo",
]

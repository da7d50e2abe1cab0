"""Taobao's UserBehavior.csv: 100 million lines `user,item,category,behaviour,unix seconds`.

No header and no quotes; the published days are 2017-11-25 to 2017-12-03, and some lines have
times of other years, before 1970 too. Days are UTC, though the shop's own are eight hours ahead.
"""

from pipeline.adapters.delimited import read_delimited
from pipeline.adapters.dialect import Dialect
from pipeline.adapters.raw_files import find_files
from pipeline.adapters.reading import Reading
from pipeline.adapters.settings import IngestSettings

__all__ = ["taobao_reading"]

COLUMNS = ("user_id", "item_id", "category_id", "action", "event_time")
DIALECT = Dialect(delimiter=",", quote="", column_names=COLUMNS)
ACTIONS = {"pv": "click", "buy": "purchase", "cart": "cart", "fav": "favorite"}


def taobao_reading(settings: IngestSettings) -> Reading:
    """Read the file, or several of its format; `ingest.actions` may name other actions.

    Raises:
        DataError: what is wrong with the files as files.
    """
    known = {"time_unit": "s", "actions": settings.actions or ACTIONS}
    return Reading(
        settings=settings.model_copy(update=known),
        files=find_files(settings.files, "ingest.files"),
        read=lambda path: read_delimited(path, DIALECT, {name: name for name in COLUMNS}),
        columns=COLUMNS,
    )

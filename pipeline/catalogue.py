"""The catalogue: what is known of every item by the end of a day.

    ROOT/catalogue/day=D/   one row an item with a table row: item_id, the rows of its other
                            features as its latest events had them, count, recent

`count` is the number of its history actions so far (its popularity), `recent` that of the last day
that had any. While several days are built at once, `Catalogue.versions` says what was known at the
end of each, so that a request sees its item as the day before left it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import ibis
import pyarrow as pa
from ibis.expr.types import Table

from pipeline.engine import Engine, read_published
from pipeline.partitions import Contents, day_folder, publish
from pipeline.schema import UNKNOWN_ROW, FeatureSettings, item_features
from pipeline.storage import L

__all__ = [
    "Catalogue",
    "catalogue_folder",
    "catalogue_schema",
    "features_on",
    "grow_catalogue",
    "publish_catalogue",
    "read_catalogue",
]

ROW_GROUP_ROWS = 131_072
# After all days: the end of what is still so.
LAST_DAY = date(9999, 12, 31)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Items while days are being built."""

    versions: Table
    """item features, day, until: known from the end of `day` to the end of `until`"""
    popularity: Table
    """item_id, day, count: history actions of a day; what came before in one row, with the day
    before as its day"""
    recent: Table
    """item_id, day, count: as popularity, but of the day before only its own"""


def catalogue_folder(root: L, day: date) -> L:
    """ROOT/catalogue/day=D."""
    return day_folder(root, "catalogue", day)


def catalogue_schema(features: Sequence[FeatureSettings]) -> pa.Schema:
    """Each known item's row, the rows of its other features, its numbers of events."""
    return pa.schema({name: pa.int64() for name in [*item_features(features), "count", "recent"]})


def read_catalogue(
    engine: Engine, root: Path, features: Sequence[FeatureSettings], day: date
) -> Catalogue:
    """The published catalogue of a day, as what nothing was added to."""
    items = read_published(engine, catalogue_folder(root, day), catalogue_schema(features))
    items = items.mutate(day=ibis.literal(day), until=ibis.literal(LAST_DAY))
    return Catalogue(
        versions=items.select(*item_features(features), "day", "until"),
        popularity=items.filter(items["count"] > 0).select("item_id", "day", "count"),
        recent=items.filter(items.recent > 0).select("item_id", "day", count="recent"),
    )


def grow_catalogue(
    engine: Engine,
    features: Sequence[FeatureSettings],
    before: Catalogue | None,
    events: Table,
    history_actions: Sequence[str],
) -> Catalogue:
    """The catalogue after the encoded `events`, which are those of the days after `before`."""
    known = events.filter(events.item_id != UNKNOWN_ROW)
    names = item_features(features)
    latest = _latest_of_day(known, names)
    if before:
        latest = ibis.union(before.versions.select(latest.columns), latest)
    versions = engine.computed("versions", _changes(latest, names))
    chosen = known.filter(known.action.isin(history_actions))
    counted = chosen.group_by("item_id", "day").agg(count=chosen.count())
    counted = engine.computed("popularity", counted)
    return Catalogue(
        versions=versions,
        popularity=ibis.union(before.popularity, counted) if before else counted,
        recent=ibis.union(before.recent, counted) if before else counted,
    )


def _latest_of_day(known: Table, names: Sequence[str]) -> Table:
    """Item features and day: for each day of an item those of its latest event."""
    if len(names) == 1:
        return known.select("item_id", "day").distinct()
    seen = known.group_by("day", *names).agg(time=known.event_time.max())
    order = [seen.time.desc(), *(seen[name] for name in names[1:])]
    place = ibis.row_number().over(group_by=["item_id", "day"], order_by=order)
    return seen.mutate(place=place).filter(lambda table: table.place == 0).select(*names, "day")


def _changes(latest: Table, names: Sequence[str]) -> Table:
    """Only the days on which something changed, and until when it stayed so."""
    by_day = ibis.window(group_by="item_id", order_by="day")
    new = latest.day.lag().over(by_day).isnull()
    for name in names[1:]:
        new = new | (latest[name].lag().over(by_day) != latest[name])
    changed = latest.mutate(new=new).filter(lambda table: table.new).drop("new")
    by_day = ibis.window(group_by="item_id", order_by="day")
    until = changed.day.lead().over(by_day).fill_null(ibis.literal(LAST_DAY))
    return changed.mutate(until=until).select(*names, "day", "until")


def features_on(items: Table, versions: Table, names: Sequence[str], day: str = "as_of") -> Table:
    """`items` (item_id, and `day`: by whose end) with their other features; known items only."""
    versions = versions.rename(from_day="day")
    joined = items.inner_join(versions, "item_id")
    valid = (joined.from_day <= joined[day]) & (joined.until > joined[day])
    return joined.filter(valid).select(*items.columns, *names[1:])


def publish_catalogue(
    engine: Engine,
    root: Path,
    features: Sequence[FeatureSettings],
    catalogue: Catalogue,
    contents: Contents,
) -> None:
    """Publish the catalogue as of the last day."""
    assert contents.day is not None
    names = item_features(features)
    current = catalogue.versions.filter(catalogue.versions.until == LAST_DAY).select(names)
    total = catalogue.popularity.group_by("item_id").agg(count=catalogue.popularity["count"].sum())
    recent = catalogue.recent
    last = recent.filter(recent.day == recent.day.max().as_scalar())
    last = last.select("item_id", recent="count")
    items = current.left_join(total, "item_id").drop("item_id_right")
    items = items.left_join(last, "item_id").drop("item_id_right")
    items = items.mutate(count=items["count"].fill_null(0), recent=items.recent.fill_null(0))
    publish(
        catalogue_folder(root, contents.day),
        contents,
        catalogue_schema(features),
        engine.stream(items.order_by("item_id")),
        ROW_GROUP_ROWS,
    )

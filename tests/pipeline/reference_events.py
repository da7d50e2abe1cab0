"""Events as `reference` takes them: with rows for values, in order, clocks corrected."""

from collections import defaultdict
from datetime import date
from hashlib import md5

LOW_31 = 2**31 - 1


class ReferenceEvents:
    """`made` is the `Preparation`, `events` has day -> events, also of days after the last one."""

    def __init__(self, made, events):
        self.made = made
        self.names = [f.name for f in made.features if f.role == "item"]
        self.context = [f.name for f in made.features if f.role == "context"]
        self.vocabularies = {f.name: self._vocabulary(f, events) for f in made.features}
        self.by_day = {day: self._events_of(day, rows) for day, rows in events.items()}
        first, last = made.days.training[0], made.days.test[1]
        self.days = [day for day in sorted(events) if first <= day <= last]

    def _vocabulary(self, feature, events):
        """value -> (row, day by whose end it was seen often enough)."""
        if feature.hash_rows:
            every = {event[feature.name] for rows in events.values() for event in rows} - {None}
            return {value: (hashed_row(feature, value), date.min) for value in every}
        count, rows = defaultdict(int), {}
        for day in sorted(events):
            if day > self.made.last_training_day:
                break
            for event in events[day]:
                if event[feature.name] is not None:
                    count[event[feature.name]] += 1
            enough = {value for value, times in count.items() if times >= feature.min_count}
            for value in sorted(enough - rows.keys()):
                rows[value] = (len(rows) + 1, day)
        return rows

    def num_known(self, name, day):
        """Rows of a feature's table when `day` began, row 0 included."""
        fixed = {feature.name: feature.hash_rows for feature in self.made.features}
        return fixed[name] or 1 + sum(since < day for _, since in self.vocabularies[name].values())

    def _events_of(self, day, rows):
        """The day's events with rows for values, and their order; clocks corrected."""
        found = []
        for event in rows:
            encoded = {**event, "day": day, "raw_item": event["item_id"], "seen": {}}
            for name, vocabulary in self.vocabularies.items():
                row, since = vocabulary.get(event[name], (0, day))
                encoded["seen"][name] = row if since <= day else 0
            encoded["event_time"] = self._corrected(event, rows)
            found.append(encoded)
        return found

    def _corrected(self, event, rows):
        """No answer to a request is earlier than the request itself."""
        requests = self.made.requests
        if requests.candidates != "events" or event["action"] in requests.actions:
            return event["event_time"]
        shown = [
            other["event_time"]
            for other in rows
            if other["action"] in requests.actions
            and other["request_id"] is not None
            and (other["user_id"], other["request_id"]) == (event["user_id"], event["request_id"])
        ]
        return max([event["event_time"], *([min(shown)] if shown else [])])

    def _of_users(self, actions, days):
        """user -> events of these actions, in their order."""
        users = defaultdict(list)
        for day in days:
            for event in self.by_day[day]:
                if event["action"] in actions:
                    users[event["user_id"]].append(event)
        for own in users.values():
            own.sort(key=lambda event: (event["event_time"], self._tie(event, actions)))
        return users

    def _tie(self, event, actions=()):
        """The order of events of one time."""
        rows = [event["seen"][name] for name in self.names]
        others = 0
        for row in rows[1:]:
            others = (others * 31 + row) & LOW_31
        action = actions.index(event["action"]) if event["action"] in actions else 0
        if rows[0]:
            seconds = int(event["event_time"].timestamp())
            item = scrambled(rows[0] * 0x9E3779B1 + seconds * 0x85EBC)
        else:
            item = hash_of(event["raw_item"])
        return item * 2**31 + ((others * 8 + action) & LOW_31)


def scrambled(number):
    """31 bits of a number, in another order."""
    number &= LOW_31
    return ((number ^ (number >> 15)) * 0x2C1B3C6D) & LOW_31


def hash_of(value):
    """31 bits of a number or a text."""
    if isinstance(value, int):
        return scrambled(scrambled(value) + (value >> 31 & LOW_31))
    return hash_number(value) & LOW_31


def mixed(number):
    """31 well mixed bits."""
    number &= LOW_31
    for shift, factor in ((16, 0x45D9F3B), (15, 0x2C1B3C6D)):
        number = ((number ^ (number >> shift)) * factor) & LOW_31
    return number ^ (number >> 16)


def mixed_long(number):
    """62 well mixed bits."""
    high = mixed((number >> 31) + (number & LOW_31) * 0x9E377)
    return high * 2**31 + mixed(number + (number >> 31) * 0x85EBC)


def hash_number(*parts):
    """The first 52 bits of md5."""
    text = "".join("\t" + str(part) for part in parts)
    return int(md5(text.encode()).hexdigest()[:13], 16)


def hashed_row(feature, value):
    """The row of a value of a feature with `hash_rows`."""
    return mixed_long(hash_number(feature.name, value)) % (feature.hash_rows - 1) + 1

"""What `prepare` publishes, by small loops over dicts: the definition that the engine must meet.

Events are dicts as in `small_days.event`, by day, without duplicates. Everything is computed for
one user, one request, one candidate at a time; nothing here is shared with the pipeline.
"""

from collections import defaultdict
from datetime import timedelta

from tests.pipeline.reference_events import ReferenceEvents


class Reference(ReferenceEvents):
    """`made` is the `Preparation`, `events` has day -> events, also of days after the last one."""

    # Sequences.

    def _pieces(self):
        settings, (first, last) = self.made.sequences, self.made.days.pretraining
        days = [day for day in self.days if first <= day <= last]
        for user, own in self._of_users(settings.actions, days).items():
            for start in range(0, len(own), settings.max_length):
                yield user, own[start : start + settings.max_length]

    def sequences(self, day):
        """Full subsequences whose last event is of `day`."""
        size = self.made.sequences.max_length
        return [
            self._sequence(user, piece)
            for user, piece in self._pieces()
            if len(piece) == size and piece[-1]["day"] == day
        ]

    def tails(self):
        """What is still open after the last pretraining day, if it is long enough."""
        settings = self.made.sequences
        return [
            self._sequence(user, piece)
            for user, piece in self._pieces()
            if settings.min_length <= len(piece) < settings.max_length
        ]

    def _sequence(self, user, piece):
        return {
            "user_id": user,
            "event_time": [event["event_time"] for event in piece],
            "action": [event["action"] for event in piece],
            **{name: [event["seen"][name] for event in piece] for name in self.names},
        }

    # Requests.

    def _request_id(self, event):
        if event["request_id"] is not None:
            return event["request_id"]
        return f"{event['user_id']}@{event['event_time']:%Y%m%d%H%M%S.%f}"

    def _requests_of(self, day):
        """(user, request id) -> raw item -> events of the requests' actions."""
        requests = defaultdict(lambda: defaultdict(list))
        for event in self.by_day[day]:
            if event["action"] in self.made.requests.actions:
                key = (event["user_id"], self._request_id(event))
                requests[key][event["raw_item"]].append(event)
        return requests

    def shown_requests(self, day):
        """Requests of what was shown on `day`, sorted by user and id."""
        found = []
        for (user, request_id), items in self._requests_of(day).items():
            candidates = [self._candidate(day, events) for events in items.values()]
            time = min(candidate["event_time"] for candidate in candidates)
            history = self._history(user, day, time)
            if len(history) < self.made.requests.min_history:
                continue
            candidates.sort(key=self._tie)
            del candidates[self.made.requests.max_candidates :]
            labels = [self._labels(user, request_id, candidate) for candidate in candidates]
            found.append(
                self._head(user, request_id, day, time, items)
                | self._history_columns(history, day)
                | {
                    f"candidate_{name}": [self._known(c, name, day) for c in candidates]
                    for name in self.names
                }
                | {f"label_{task}": [of[task] for of in labels] for task in self.made.tasks}
            )
        return sorted(found, key=lambda row: (row["user_id"], row["request_id"]))

    def _candidate(self, day, events):
        """One for all events of an item in a request."""
        names = self.vocabularies
        return {
            "day": day,
            "raw_item": events[0]["raw_item"],
            "given_id": events[0]["request_id"],
            "event_time": min(event["event_time"] for event in events),
            "action": None,
            "seen": {name: min(event["seen"][name] for event in events) for name in names},
        }

    def basket_requests(self, day):
        """Baskets of `day`, sorted by user and id, with `positives` in place of candidates."""
        found = []
        settings = self.made.requests
        for (user, request_id), items in self._requests_of(day).items():
            time = min(event["event_time"] for events in items.values() for event in events)
            history = self._history(user, day, time)
            rows = {self._known(events[0], "item_id", day) for events in items.values()} - {0}
            if rows and len(history) >= settings.min_history:
                head = self._head(user, request_id, day, time, items)
                found.append(head | self._history_columns(history, day) | {"positives": rows})
        return sorted(found, key=lambda row: (row["user_id"], row["request_id"]))

    def catalogue(self, day):
        """Item row -> rows of its other features, as its latest event before `day` had them.

        Of several at that time, the lowest.
        """
        end = min(day, self.made.last_training_day + timedelta(days=1))
        latest, time = {}, {}
        for before in self.days:
            for event in self.by_day[before] if before < end else ():
                item, *others = (event["seen"][name] for name in self.names)
                if item and event["event_time"] >= time.get(item, event["event_time"]):
                    if event["event_time"] != time.get(item):
                        latest[item] = others
                    latest[item], time[item] = min(latest[item], others), event["event_time"]
        return latest

    def _head(self, user, request_id, day, time, items):
        events = [event for of_item in items.values() for event in of_item]
        head = {"request_id": request_id, "user_id": user, "request_time": time}
        for name in self.context:
            row = min(event["seen"][name] for event in events)
            head[name] = row if row < self.num_known(name, day) else 0
        return head

    def _history(self, user, day, time):
        """The last events strictly before the request."""
        settings = self.made.requests
        days = [before for before in self.days if before <= day]
        own = self._of_users(settings.history_actions, days)[user]
        return [event for event in own if event["event_time"] < time][-settings.max_history :]

    def _history_columns(self, history, day):
        columns = {"history_time": [event["event_time"] for event in history]}
        for name in self.names:
            columns[f"history_{name}"] = [self._known(event, name, day) for event in history]
        return columns

    def _known(self, event, name, day):
        """The row, 0 if it did not exist when `day` began."""
        row = event["seen"][name]
        return row if row < self.num_known(name, day) else 0

    # Labels.

    def _labels(self, user, request_id, candidate):
        """Task -> 1, 0 or None."""
        times, labels = {}, {}
        for name in self.made.tasks:
            times[name] = self._time_of(name, user, request_id, candidate)
        for name, task in self.made.tasks.items():
            labels[name] = int(times[name] is not None)
            if task.after and times[task.after] is None:
                labels[name] = None
            if not self._is_final(name, candidate["day"]):
                labels[name] = None
        return labels

    def _time_of(self, name, user, request_id, candidate):
        """When the first action happened that makes the label 1, or None."""
        task = self.made.tasks[name]
        start = candidate["event_time"]
        if task.after:
            start = self._time_of(task.after, user, request_id, candidate)
        if start is None:
            return None
        times = []
        for day, events in self.by_day.items():
            for event in events:
                if (event["user_id"], event["raw_item"]) != (user, candidate["raw_item"]):
                    continue
                if event["action"] not in task.label_actions or day < start.date():
                    continue
                follows = event["event_time"] >= start
                if task.same_request and None not in (event["request_id"], candidate["given_id"]):
                    # What carries the id follows the candidate, whatever its clock says.
                    same = event["request_id"] == request_id
                    follows = same and (follows or not task.after)
                if follows and event["event_time"] < start + task.duration:
                    times.append(event["event_time"])
        return min(times, default=None)

    def _is_final(self, name, day):
        """Whether all windows of the day's candidates have closed by the end of the log."""
        to_wait = timedelta()
        while name:
            task = self.made.tasks[name]
            to_wait, name = to_wait + task.duration, task.after
        return to_wait <= max(self.by_day) - day

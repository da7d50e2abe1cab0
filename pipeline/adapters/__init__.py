"""Files in other people's formats, made into the day-partitioned events that `prepare` reads."""

"""The ranks of an adapter: as a report, a picture, a map for another run, and by place."""

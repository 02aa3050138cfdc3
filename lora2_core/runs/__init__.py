"""A run on disk: its states, previews, contact sheet and movie, and the adapter it ends in."""

"""The adapter file: its header, layout, metadata and names."""

"""What a run needs of a GPU, what of it may wait in main memory, and advice where it ran out."""

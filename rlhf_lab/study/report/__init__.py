"""The report of a study: one self-contained page, the same tables in the terminal, JSON and CSV beside it."""

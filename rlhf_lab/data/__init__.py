"""Preference data in words: one ranking, and files of them."""

"""A text on RLHF, executed: its claims and its misprints as exact tests, one module for each part of it."""

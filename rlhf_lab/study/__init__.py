"""Studies: many arms x many seeds, and what they say."""

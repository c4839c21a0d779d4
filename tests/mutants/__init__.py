"""Deliberately broken components: each law must catch at least one of them, and nearly all must be caught."""

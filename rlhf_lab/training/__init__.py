"""Protocols and machinery that trainers, environments and policies share."""

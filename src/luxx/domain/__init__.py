"""Entities and rules. Nothing here knows of HTTP, SQL or any provider; nothing but the standard library is imported."""

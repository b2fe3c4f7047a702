"""Alembic migrations: the only way tables are made, in production and in tests."""

"""Storage in a database: SQLite in a file for one process, Postgres for any number."""

from luxx.extras import needs

with needs("luxx.adapters.database", "the extra `sqlite` or `postgres`"):
    from luxx.adapters.database.database import Database, DatabaseUnit
    from luxx.adapters.database.migrate import SchemaState
    from luxx.adapters.database.turn_log import DatabaseTurnLog

__all__ = ["Database", "DatabaseTurnLog", "DatabaseUnit", "SchemaState"]

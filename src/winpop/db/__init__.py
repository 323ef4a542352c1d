"""One narrow contract for the database, SQLite behind it, leases, and where an installation lies."""

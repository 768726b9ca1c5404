"""The part that lives in PostgreSQL: bulk writing, the ledger, dead letters and their schema."""

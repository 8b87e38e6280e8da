"""An application with a model and backends."""

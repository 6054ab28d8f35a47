"""The metrics store: one DuckDB file that is rebuilt from the Parquet files of the data root."""

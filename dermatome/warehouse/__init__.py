"""The metrics store: one DuckDB file that is rebuilt from the records and Parquet files of the data root."""

"""Ask a finished student for the rows of a file: ``python -m rwkd_lightning.predict RUN new.csv -o out.parquet``."""

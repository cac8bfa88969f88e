"""Reads an exported file of any kind as texts."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd


def read_export(path: Path) -> pd.DataFrame:
    """Returns the table in `path`. Nulls are empty texts, and nested values are JSON."""
    if path.suffix == ".csv":
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    elif path.suffix == ".xlsx":
        table = pd.read_excel(path, dtype=str, keep_default_na=False, engine="openpyxl")
    elif path.suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        lines = path.read_text("utf-8").splitlines()
        table = pd.DataFrame([json.loads(line) for line in lines])
    return table.map(_text)


def _text(value: object) -> str:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | dict):
        return json.dumps(value)
    return "" if value is None or value != value else str(value)

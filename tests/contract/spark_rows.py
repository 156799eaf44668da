"""Runs statements in a local Spark, in a process of its own: `python spark_rows.py FOLDER`.

Reads N.sql and the table `bill` from N.parquet, and writes the rows to N.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pyspark.sql import SparkSession

SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.shuffle.partitions": "1",
    "spark.default.parallelism": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.log.level": "ERROR",
}


def main(folder: Path) -> None:
    builder = SparkSession.builder.master("local[1]").config("spark.sql.warehouse.dir", str(folder / "spark"))
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    try:
        for file in sorted(folder.glob("*.sql")):
            spark.read.parquet(str(file.with_suffix(".parquet"))).createOrReplaceTempView("bill")
            rows = [list(row) for row in spark.sql(file.read_text(encoding="utf-8")).collect()]
            file.with_suffix(".json").write_text(json.dumps(rows), encoding="utf-8")
    finally:
        spark.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Reads a folder in the layout of Security Lake with pyarrow and with DuckDB, and says what is not as it should be.

    read_lake.py FOLDER        prints {"told": [ids], "files": n, "wrong": [...]} as JSON
"""
import glob, json, re, sys
from datetime import datetime, timezone
import duckdb, pyarrow as pa, pyarrow.parquet as pq

root, told, wrong, schemas = sys.argv[1], set(), [], {}
paths = glob.glob(root + "/ext/**/*.parquet", recursive=True)
key = re.compile(r"/ext/threadline-(\d+)/region=eu-test-1/accountId=123456789012/eventDay=(\d{8})/\d+-[0-9a-f-]{36}\.parquet$")
for path in paths:
    place = key.search(path)
    if not place:
        wrong.append("key " + path)
        continue
    table, meta = pq.read_table(path, partitioning=None), pq.ParquetFile(path).metadata
    schema = pq.ParquetFile(path).schema_arrow.remove_metadata()
    if schemas.setdefault(place[1], schema) != schema:
        wrong.append("two schemas of class " + place[1])
    times = table["time"].to_pylist()
    if schema.field("time").type != pa.int64() or times != sorted(times):
        wrong.append("times of " + path)
    days = {datetime.fromtimestamp(time / 1000, timezone.utc).strftime("%Y%m%d") for time in times}
    if days != {place[2]} or set(table["class_uid"].to_pylist()) != {int(place[1])}:
        wrong.append("rows of another day or class in " + path)
    columns = [meta.row_group(0).column(n) for n in range(meta.num_columns)]
    if {column.compression for column in columns} != {"ZSTD"}:
        wrong.append("compression of " + path)
    if any(".list." in column.path_in_schema and ".list.element" not in column.path_in_schema for column in columns):
        wrong.append("lists of " + path)
    if not any(".list.element" in column.path_in_schema for column in columns):
        wrong.append("no list in " + path)
    for row in table.select(["metadata", "unmapped"]).to_pylist():
        told.add(row["metadata"]["uid"])
        told.add(json.loads(row["unmapped"] or "{}").get("threadline.request_event_id"))
# DuckDB sees the partitions as columns and the same rows.
for uid in {key.search(path)[1] for path in paths if key.search(path)}:
    rows = duckdb.sql(f"""select count(*), count(distinct metadata.uid), min(accountId)::varchar, min(region), count(actor.session.uid)
        from read_parquet('{root}/ext/threadline-{uid}/**/*.parquet', hive_partitioning = true)""").fetchall()[0]
    count = sum(pq.ParquetFile(path).metadata.num_rows for path in paths if f"/threadline-{uid}/" in path)
    if rows[0] != count or rows[1] != count or rows[2] != "123456789012" or rows[3] != "eu-test-1":
        wrong.append(f"DuckDB on class {uid}: {rows}, {count} rows")
print(json.dumps({"told": sorted(told - {None}), "files": len(paths), "wrong": wrong}))

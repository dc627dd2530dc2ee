use threadline_store::{Store, StoreConfig};

use super::*;
use crate::engine::EngineConfig;
use crate::testing::call;

async fn engine(dir: &std::path::Path) -> (Store, Arc<Engine>) {
    let store = Store::open(dir, StoreConfig::default()).await.unwrap();
    store.appender().append(call("a", "conv", "run", "toolu_1", 0)).await.unwrap();
    let engine = Engine::new(store.reader(), EngineConfig::default());
    (store, Arc::new(engine))
}

fn ask(query: &str) -> SqlQuestion {
    SqlQuestion { query: query.into(), ..SqlQuestion::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_over_tail_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let (store, engine) = engine(dir.path()).await;
    let query = ask("SELECT kind, count(*) AS n FROM records GROUP BY kind ORDER BY kind");
    let before = engine.sql(&query).await.unwrap();
    store.seal_now().await.unwrap();
    let after = engine.sql(&query).await.unwrap();
    assert_eq!(before.data.rows, after.data.rows);
    assert_eq!(serde_json::to_string(&after.data.rows).unwrap(), r#"[["call",1],["result",2],["selection",1]]"#);
    assert_eq!((before.completeness.snapshot.tail_rows, after.completeness.snapshot.tail_rows), (4, 0));
    assert_eq!((before.completeness.rows_searched, after.completeness.rows_searched), (4, 4));

    let links = engine.sql(&ask("SELECT l.rule, l.grade, r.kind FROM links l JOIN records r USING (event_id) WHERE l.parent_event_id IS NOT NULL ORDER BY l.rule, r.kind")).await.unwrap();
    assert_eq!(
        serde_json::to_string(&links.data.rows).unwrap(),
        r#"[["response","proven","result"],["tool-call-id","matched","call"],["tool-call-id","claimed","result"]]"#
    );
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_bounded_queries_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let (store, engine) = engine(dir.path()).await;
    for statement in [
        "CREATE TABLE x AS SELECT 1",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "INSERT INTO records SELECT * FROM records",
        "DELETE FROM records",
        "DROP TABLE records",
        "COPY records TO '/tmp/x'",
        "SET datafusion.execution.batch_size = 1",
        "SELECT 1; SELECT 2",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM nothing",
        "WITH x AS (SELECT 1) INSERT INTO records SELECT * FROM x",
        "EXPLAIN ANALYZE DELETE FROM records",
        "SELEC 1",
        "",
    ] {
        let error = engine.sql(&ask(statement)).await.unwrap_err();
        assert!(
            matches!(error, QueryError::SqlRefused { .. } | QueryError::SqlFailed { .. }),
            "{statement}: {error:?}"
        );
    }
    let sum = format!("SELECT {}1", "1+".repeat(20_000 - 1));
    assert!(matches!(engine.sql(&ask(&sum)).await, Err(QueryError::SqlRefused { .. })));
    // Just inside every limit at once, it is answered or refused, and the process lives.
    let deep = format!("SELECT {}1{}", "(1+".repeat(guard::DEPTH_MAX), ")".repeat(guard::DEPTH_MAX));
    drop(engine.sql(&ask(&deep)).await);
    let wide = format!("SELECT {}1", "1+".repeat(guard::OPERATORS_MAX));
    drop(engine.sql(&ask(&wide)).await);
    let not = format!("SELECT {} true", "not ".repeat(guard::OPERATORS_MAX - 2));
    drop(engine.sql(&ask(&not)).await);
    let unions = format!("SELECT 1 {}", "union all select 1 ".repeat(600));
    drop(engine.sql(&ask(&unions)).await);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_beyond_the_limit_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (store, engine) = engine(dir.path()).await;
    let question = SqlQuestion { limit: Some(3), ..ask("SELECT value FROM generate_series(1, 1000)") };
    let answer = engine.sql(&question).await.unwrap();
    assert_eq!(
        (answer.data.rows.len(), answer.completeness.rows_cut, answer.completeness.state.as_str()),
        (3, 997, "partial")
    );
    let endless = ask(
        "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b, generate_series(1, 1000000) c",
    );
    let question = SqlQuestion { timeout_ms: Some(300), ..endless };
    assert!(matches!(engine.sql(&question).await, Err(QueryError::Timeout { limit_ms: 300 })));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_says_how_many_rows_were_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let (store, engine) = engine(dir.path()).await;
    store.seal_now().await.unwrap();
    store.appender().append(call("b", "conv-2", "run-2", "toolu_2", 10)).await.unwrap();
    for (query, rows) in [
        ("SELECT 1", 0),
        ("SELECT count(*) FROM records", 8),
        ("SELECT * FROM records WHERE kind = 'nothing'", 8),
        ("SELECT event_id FROM records WHERE time_unix_nano < 0", 8),
        ("SELECT a.kind FROM records a JOIN records b USING (event_id)", 8),
        ("SELECT count(*) FROM links", 8),
        ("SELECT count(*) FROM information_schema.tables", 0),
    ] {
        let answer = engine.sql(&ask(query)).await.unwrap();
        assert_eq!(answer.completeness.rows_searched, rows, "{query}");
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_table_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = engine(dir.path()).await;
    let config = EngineConfig { sql_links_rows_max: 2, ..EngineConfig::default() };
    let engine = Arc::new(Engine::new(store.reader(), config));
    let query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1";
    let tables = engine.sql(&ask(query)).await.unwrap().data.rows;
    assert_eq!(serde_json::to_string(&tables).unwrap(), r#"[["links"],["records"]]"#);
    let shown = engine.sql(&ask("SHOW TABLES")).await.unwrap().data.rows;
    assert!(shown.iter().any(|row| row[2] == "links"), "{shown:?}");
    let refused = engine.sql(&ask("SELECT * FROM links")).await.unwrap_err();
    expect_test::expect!["the table links is offered up to 2 records, and 4 are stored; read GET /api/v1/links (or `threadline links`), or ask for one session there"]
        .assert_eq(&refused.to_string());
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (store, engine) = engine(dir.path()).await;
    store.seal_now().await.unwrap();
    let path = engine.snapshot().await.unwrap().files()[0].path.clone();
    let mut bytes = std::fs::read(&path).unwrap();
    let footer = bytes.len() - bytes.len() / 3;
    bytes[4..footer].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let error = engine.sql(&ask("SELECT * FROM records")).await.unwrap_err();
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(
        matches!(&error, QueryError::Unread { file: Some(file), .. } if file.starts_with("records/") && file.ends_with(name)),
        "{error:?}"
    );
    assert_eq!(crate::api::Problem::from(error).status, 500);
    // What the asker computes wrongly stays the asker's.
    let error = engine.sql(&ask("SELECT 1/0")).await.unwrap_err();
    assert_eq!(crate::api::Problem::from(error).status, 400);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_beyond_its_time_holds_its_permit_until_it_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = engine(dir.path()).await;
    let config = EngineConfig { sql_at_once_max: 1, ..EngineConfig::default() };
    let engine = Arc::new(Engine::new(store.reader(), config));
    // Seconds of work, and an end: once it joins, nothing interrupts it.
    let long = "SELECT count(*) FROM generate_series(1, 20000) a, generate_series(1, 20000) b";
    let question = SqlQuestion { timeout_ms: Some(20), ..ask(long) };
    assert!(matches!(engine.sql(&question).await, Err(QueryError::Timeout { limit_ms: 20 })));
    loop {
        match engine.sql(&ask("SELECT 1")).await {
            Ok(_) => break,
            Err(QueryError::Busy { at_once: 1 }) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            Err(error) => panic!("{error:?}"),
        }
    }
    store.close().await.unwrap();
}

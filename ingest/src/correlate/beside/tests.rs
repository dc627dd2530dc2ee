//! The linker beside a store: provisional, final, after a restart, and late deliveries.

use std::sync::Arc;

use threadline_store::links::{LinkRow, opinions};
use threadline_store::{Store, StoreConfig, match_key};

use super::super::windows::Held;
use super::*;
use crate::import::{Import, Options, Unseen};
use crate::pipeline::Pipeline;

#[test]
fn of_a_growing_window_the_last_minutes_are_judged() {
    let all = |records: u64| Held { records, sides: 0b11 };
    let minutes: Minutes = (0..100).map(|minute| (minute, all(100))).collect();
    let whole = windows(&minutes)[0];
    let last = recent(whole, &minutes);
    assert_eq!((minute(last.from), minute(last.read_from), last.to), (89, 87, whole.to));
    let busy: Minutes = (0..100).map(|minute| (minute, all(600))).chain([(99, all(15_000))]).collect();
    let whole = windows(&busy)[0];
    assert_eq!(minute(recent(whole, &busy).from), 91);
    let few = Minutes::from([(5, all(1))]);
    assert_eq!(recent(windows(&few)[0], &few).from, windows(&few)[0].from);
}

/// 2026-03-02T08:00:00Z.
const START: i64 = 1_772_438_400_000_000_000;
const CALLS: usize = 40;
/// Milliseconds between two calls.
const PAUSE: usize = 1_700;

fn stamp(millis: usize) -> String {
    let (hour, minute) = (8 + millis / 3_600_000, millis / 60_000 % 60);
    format!("2026-03-02T{hour:02}:{minute:02}:{:02}.{:03}Z", millis / 1000 % 60, millis % 1000)
}

/// Begin and duration of a call, milliseconds; `pause` between two calls.
fn times(call: usize, pause: usize) -> (usize, usize) {
    (call * pause + call * call % 97, 30 + call * 7 % 50)
}

/// Request and response of a call as a gateway logs them.
fn frames(call: usize, pause: usize) -> String {
    let (at, took) = times(call, pause);
    let common = r#""gateway":"gw","mcp_session_id":"m-1","client":{"name":"app","version":"1","ip":"10.0.0.1"},"server":"mail""#;
    let request = format!(
        r#"{{"ts":"{}",{common},"event":"mcp.request","principal":{{"sub":"u-1"}},"frame":{{"jsonrpc":"2.0","id":{call},"method":"tools/call","params":{{"name":"fetch","arguments":{{"key":"k-{call}"}}}}}},"policy":{{"decision":"allow","rule":"default"}}}}"#,
        stamp(at)
    );
    let response = format!(
        r#"{{"ts":"{}",{common},"event":"mcp.response","duration_ms":{took},"frame":{{"jsonrpc":"2.0","id":{call},"result":{{"content":[{{"type":"text","text":"v-{call}"}}],"isError":false}}}}}}"#,
        stamp(at + took)
    );
    format!("{request}\n{response}\n")
}

/// The same call as the server logs it, by a clock 1.3 seconds ahead.
fn execution(call: usize, pause: usize) -> String {
    let (at, took) = times(call, pause);
    let (end, took) = (stamp(at + 2 + took - 4 + 1_300), took - 4);
    format!(
        r#"{{"time":"{end}","level":"info","logger":"mcp.server","server":"mail","instance":"mail-1","msg":"tool call finished","tool":"fetch","params":{{"key":"k-{call}"}},"duration_ms":{took},"outcome":"ok"}}"#
    ) + "\n"
}

struct Estate {
    dir: tempfile::TempDir,
    store: Store,
}

impl Estate {
    async fn new() -> Estate {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("data"), StoreConfig::default()).await.unwrap();
        Estate { dir, store }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    async fn import(&self, name: &str, text: String) {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let key = match_key(&self.data()).unwrap();
        let pipeline = Arc::new(Pipeline::new(self.store.appender(), key, "default".into()));
        let report = Import::new(pipeline).run(&[path], &Options::default(), &mut Unseen).await.unwrap();
        assert_eq!(report.total().rejected, 0);
    }

    async fn look(&self, work: &mut Work, now: i64) -> Report {
        work.look(&self.data(), &self.store.reader().snapshot().await.unwrap(), now).await.unwrap()
    }

    /// The first calls, their server lines included.
    async fn deliver(&self, calls: usize, pause: usize) {
        self.import("gateway.jsonl", (0..calls).map(|call| frames(call, pause)).collect()).await;
        self.import("server.jsonl", (0..calls).map(|call| execution(call, pause)).collect()).await;
    }

    /// What is believed now, without when it came to be believed and from which interval.
    async fn opinions(&self) -> Vec<LinkRow> {
        let table = LinksTable::open(&self.data()).await.unwrap().unwrap();
        let files = table.rows_between(i64::MIN, i64::MAX).await.unwrap();
        let standing = opinions(&files, i64::MAX).into_values().flatten().filter(|row| row.relation != "none");
        let bare = |row: &LinkRow| LinkRow { known_at_us: 0, interval_from: 0, interval_to: 0, ..row.clone() };
        let mut rows: Vec<LinkRow> = standing.map(bare).collect();
        rows.sort_by(|a, b| (a.from, &a.relation).cmp(&(b.from, &b.relation)));
        rows
    }

    /// What is believed about executions now: how many stand below a request, and whether that is final.
    async fn believed(&self) -> (usize, Vec<bool>) {
        let rows = self.opinions().await;
        let judged: Vec<&LinkRow> =
            rows.iter().filter(|row| row.rule == "gateway-server" && row.to.is_some()).collect();
        let mut finals: Vec<bool> = judged.iter().map(|row| row.is_final).collect();
        finals.sort_unstable();
        finals.dedup();
        (judged.len(), finals)
    }
}

#[tokio::test]
async fn links_are_provisional_while_an_interval_grows_and_final_when_it_has_closed_also_after_a_restart() {
    let estate = Estate::new().await;
    estate.import("gateway.jsonl", (0..CALLS).map(|call| frames(call, PAUSE)).collect()).await;
    // The last server line comes late.
    estate.import("server.jsonl", (0..CALLS - 1).map(|call| execution(call, PAUSE)).collect()).await;
    let growing = START + 2 * MINUTE_NANOS;
    let mut work = Work::default();
    assert_eq!(estate.look(&mut work, growing).await.windows, 1);
    assert_eq!(estate.believed().await, (CALLS - 1, vec![false]));
    assert_eq!(estate.look(&mut work, growing).await.windows, 0, "nothing is new");
    // Killed; the next process finds in the table what is open.
    let closed = START + 60 * MINUTE_NANOS;
    let mut work = Work::default();
    assert_eq!(estate.look(&mut work, closed).await.windows, 1);
    assert_eq!(estate.believed().await, (CALLS - 1, vec![true]));
    assert_eq!(estate.look(&mut work, closed).await.windows, 0, "final is looked at once");
    // Late, however late: the interval is judged again.
    estate.import("server.jsonl", (0..CALLS).map(|call| execution(call, PAUSE)).collect()).await;
    let report = estate.look(&mut work, closed + 24 * 60 * MINUTE_NANOS).await;
    assert_eq!(report.windows, 1);
    assert!(report.rows > 0, "{report:?}");
    assert_eq!(estate.believed().await, (CALLS, vec![true]));
    assert_eq!(estate.look(&mut work, closed + 25 * 60 * MINUTE_NANOS).await, Report::default());
    estate.store.close().await.unwrap();
}

#[tokio::test]
async fn thirty_second_deliveries_end_with_the_links_of_one() {
    let (pieces, whole) = (Estate::new().await, Estate::new().await);
    let mut work = Work::default();
    for delivery in 1..=3i64 {
        pieces.deliver((delivery as usize * 30_000 / PAUSE).min(CALLS), PAUSE).await;
        let report = pieces.look(&mut work, START + delivery * 30_000_000_000 + 5_000_000_000).await;
        assert!(report.rows > 0, "provisional opinions {report:?}");
    }
    let closed = START + 60 * MINUTE_NANOS;
    pieces.look(&mut work, closed).await;
    whole.deliver(CALLS, PAUSE).await;
    whole.look(&mut Work::default(), closed).await;
    assert_eq!(pieces.opinions().await, whole.opinions().await);
    assert_eq!(pieces.believed().await, (CALLS, vec![true]));
    pieces.store.close().await.unwrap();
    whole.store.close().await.unwrap();
}

/// Five hours and a half are one window; with more they are cut at noon, and what was judged to the end of the first
/// delivery is judged again, though nothing new lies in it.
#[tokio::test]
async fn a_stretch_that_later_records_cut_is_judged_again() {
    const FIVE_MINUTES: usize = 300_000;
    let later = START + 24 * 60 * MINUTE_NANOS;
    let (pieces, restarted, whole) = (Estate::new().await, Estate::new().await, Estate::new().await);
    let mut work = Work::default();
    for estate in [&pieces, &restarted] {
        estate.deliver(66, FIVE_MINUTES).await;
        assert_eq!(estate.look(&mut work, later).await.windows, 1);
        estate.deliver(90, FIVE_MINUTES).await;
        if std::ptr::eq(estate, &pieces) {
            estate.look(&mut work, later).await;
        }
        work = Work::default();
    }
    restarted.look(&mut work, later).await;
    whole.deliver(90, FIVE_MINUTES).await;
    assert_eq!(whole.look(&mut Work::default(), later).await.windows, 2);
    let expected = whole.opinions().await;
    assert!(!expected.is_empty());
    assert_eq!(pieces.opinions().await, expected);
    assert_eq!(restarted.opinions().await, expected);
    for estate in [pieces, restarted, whole] {
        estate.store.close().await.unwrap();
    }
}

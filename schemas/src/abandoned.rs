//! The sign that a collector leaves when it ends without closing its spool: one `gap` record.
//!
//! Invariants
//! - the same spool always gives the same event, whoever finds it and however often
//! - what was lost is not known, so nothing is counted; what is known is when the last record was made and which calls then
//!   waited for an answer
//! - memory: [`WAITING_MAX`] calls; beyond that they are counted only
//!
//! Not here: who finds such spools (the drainer of the inbox, the next collector that sends to a server).

use std::collections::BTreeMap;

use serde_json::json;

use crate::columns::Record;
use crate::record::{Collector, Kind, SourceKind};
use crate::stamp::stamp;

/// `error_type` of the record.
pub const ERROR_TYPE: &str = "collector_ended";
/// Calls that are remembered while they wait.
const WAITING_MAX: usize = 1000;
/// Calls that the record names.
const NAMED_MAX: usize = 20;

/// What a spool says about its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name of the spool.
    pub spool: uuid::Uuid,
    /// The source it was made for.
    pub source_name: String,
    /// Process id of the collector.
    pub pid: u32,
    /// When it started, microseconds since 1970.
    pub started_unix_us: i64,
}

/// What the records of a spool say about its end.
#[derive(Debug, Default)]
pub struct Seen {
    last: Option<Last>,
    /// Calls without result, by call key.
    waiting: BTreeMap<String, Waiting>,
    not_remembered: u64,
}

#[derive(Debug)]
struct Last {
    time_unix_nano: i64,
    tenant: String,
    collector: Collector,
    source_kind: SourceKind,
    source_name: String,
    server_name: Option<String>,
    connection_id: Option<String>,
}

#[derive(Debug)]
struct Waiting {
    tool_name: Option<String>,
    rpc_id: Option<String>,
}

impl Seen {
    /// Takes in the next record of the spool.
    pub fn see(&mut self, record: &Record) {
        self.last = Some(Last {
            time_unix_nano: record.time_unix_nano,
            tenant: record.tenant.clone(),
            collector: record.collector,
            source_kind: record.source_kind,
            source_name: record.source_name.clone(),
            server_name: record.server_name.clone(),
            connection_id: record.connection_id.clone(),
        });
        let Some(call) = &record.call_key else { return };
        match record.kind {
            Kind::Call if self.waiting.len() < WAITING_MAX => {
                let waiting = Waiting { tool_name: record.tool_name.clone(), rpc_id: record.rpc_id.clone() };
                self.waiting.insert(call.clone(), waiting);
            }
            Kind::Call => self.not_remembered += 1,
            Kind::Result => {
                self.waiting.remove(call);
            }
            _ => {}
        }
    }

    /// The record. `tenant` is that of a spool without records.
    pub fn gap(&self, owner: &Owner, tenant: &str, observed_unix_us: i64) -> Record {
        let tenant = self.last.as_ref().map_or(tenant, |last| &last.tenant);
        let mut record = Record::new(tenant, &format!("own:spool:{}:end", owner.spool), Kind::Gap);
        record.collector = Collector::Own;
        record.source_kind = SourceKind::Threadline;
        record.source_name.clone_from(&owner.source_name);
        record.decoder = "spool".into();
        record.name = Some("gap".into());
        record.error_type = Some(ERROR_TYPE.into());
        record.set_time(Some(owner.started_unix_us.saturating_mul(1000)), observed_unix_us);
        let mut attributes = json!({
            "reason": "collector ended without closing",
            "spool": owner.spool,
            "pid": owner.pid,
            "started_unix_us": owner.started_unix_us,
        });
        let what = match &self.last {
            None => "nothing was recorded".to_string(),
            Some(last) => {
                record.set_time(Some(last.time_unix_nano), observed_unix_us);
                record.collector = last.collector;
                record.source_kind = last.source_kind;
                record.source_name.clone_from(&last.source_name);
                record.server_name.clone_from(&last.server_name);
                record.connection_id.clone_from(&last.connection_id);
                let pending = self.waiting.len() as u64 + self.not_remembered;
                attributes["last_record_unix_nano"] = last.time_unix_nano.into();
                attributes["pending_calls"] = pending.into();
                attributes["pending"] = self
                    .waiting
                    .values()
                    .take(NAMED_MAX)
                    .map(|call| json!({ "tool_name": call.tool_name, "rpc_id": call.rpc_id }))
                    .collect();
                let calls = if pending == 1 { "1 call".into() } else { format!("{pending} calls") };
                format!("what passed after this is not recorded; {calls} then waited for an answer")
            }
        };
        record.text = Some(format!("collector ended without closing: {what}"));
        record.attributes = Some(attributes.to_string());
        stamp(&mut record);
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn owner() -> Owner {
        Owner { spool: uuid::Uuid::nil(), source_name: "orders".into(), pid: 7, started_unix_us: 1_000 }
    }

    fn frame(key: &str, kind: Kind, call: &str) -> Record {
        let mut record = Record::new("acme", key, kind);
        record.set_time(Some(5_000_000), 9_000);
        (record.collector, record.source_kind) = (Collector::Tap, SourceKind::Wire);
        record.source_name = "orders".into();
        record.server_name = Some("orders".into());
        record.connection_id = Some("run-1".into());
        record.tool_name = Some("refund".into());
        record.rpc_id = Some(call.into());
        record.keys.push(format!("rpc:run-1:client/{call}"));
        stamp(&mut record);
        record
    }

    #[test]
    fn the_last_record_and_the_calls_that_wait() {
        let mut seen = Seen::default();
        seen.see(&frame("tap:r:0", Kind::Call, "1"));
        seen.see(&frame("tap:r:1", Kind::Call, "2"));
        seen.see(&frame("tap:r:2", Kind::Result, "1"));
        let gap = seen.gap(&owner(), "default", 20_000);
        assert_eq!((gap.kind, gap.tenant.as_str(), gap.time_unix_nano), (Kind::Gap, "acme", 5_000_000));
        assert_eq!((gap.server_name.as_deref(), gap.collector), (Some("orders"), Collector::Tap));
        assert_eq!(gap.session_key, frame("x", Kind::Call, "9").session_key);
        expect![[r#"collector ended without closing: what passed after this is not recorded; 1 call then waited for an answer
{"last_record_unix_nano":5000000,"pending":[{"rpc_id":"2","tool_name":"refund"}],"pending_calls":1,"pid":7,"reason":"collector ended without closing","spool":"00000000-0000-0000-0000-000000000000","started_unix_us":1000}"#]]
        .assert_eq(&format!("{}\n{}", gap.text.as_deref().unwrap(), gap.attributes.as_deref().unwrap()));
    }

    #[test]
    fn a_spool_without_records_is_known_by_its_owner() {
        let gap = Seen::default().gap(&owner(), "default", 20_000);
        assert_eq!((gap.source_name.as_str(), gap.time_unix_nano), ("orders", 1_000_000));
        assert_eq!(gap.event_id, Seen::default().gap(&owner(), "default", 30_000).event_id);
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = Seen::default();
        (0..WAITING_MAX + 5).for_each(|n| seen.see(&frame(&format!("tap:r:{n}"), Kind::Call, &n.to_string())));
        assert_eq!((seen.waiting.len(), seen.not_remembered), (WAITING_MAX, 5));
    }
}

//! What is told becomes an event: filter, map, cut to size, and a sample of them read back and validated.
//!
//! Invariants
//! - an event is at most `event_bytes_max` bytes; what was cut has `metadata.is_truncated` and its former size
//! - one event in `check_every` is parsed again from its text and validated; the first that fails makes every later one
//!   be checked, and goes to the dead letters instead of to the sink

use threadline_schemas::display;
use threadline_schemas::ocsf::{self, Occurrence, Policy, Version, validate};

use super::config::Common;
use super::event::Event;
use super::pairs::Told;

/// What becomes of a record.
#[derive(Debug)]
pub(super) enum Rendered {
    /// To be delivered.
    Event(Box<Event>),
    /// Not wanted by this sink.
    Filtered,
    /// Not valid: why, in words that hold no content.
    Invalid { event: Box<Event>, reason: String },
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Renderer {
    version: Version,
    policy: Policy,
    bytes_max: usize,
    kinds: Vec<String>,
    kinds_except: Vec<String>,
    severity_min: i64,
    tenants: Vec<String>,
    check_every: u64,
    rendered: u64,
}

impl Renderer {
    pub(super) fn new(common: &Common, base_url: Option<String>) -> Renderer {
        Renderer {
            version: common.ocsf_version,
            policy: Policy { text_bytes_max: common.text_bytes_max, base_url },
            bytes_max: common.event_bytes_max,
            kinds: common.kinds.clone(),
            kinds_except: common.kinds_except.clone(),
            severity_min: common.severity_min,
            tenants: common.tenants.clone(),
            check_every: common.check_every,
            rendered: 0,
        }
    }

    /// The event of what is told.
    pub(super) fn render(&mut self, told: &Told) -> Rendered {
        if !self.is_wanted(told) {
            return Rendered::Filtered;
        }
        let record = &told.record;
        let occurrence = Occurrence { request: told.request.as_ref(), ..Occurrence::of(record) };
        let mut value = ocsf::event(occurrence, &self.policy, self.version);
        if value["severity_id"].as_i64().unwrap_or(0) < self.severity_min {
            return Rendered::Filtered;
        }
        let mut text = display::json(&ocsf::to_text(&value));
        if text.len() > self.bytes_max {
            value = ocsf::shortened(value, self.bytes_max, self.version);
            text = display::json(&ocsf::to_text(&value));
        }
        let number = |name: &str| value[name].as_i64().unwrap_or(0);
        let event = Box::new(Event {
            uid: record.event_id.to_string(),
            time_ms: number("time"),
            class_uid: number("class_uid"),
            severity_id: number("severity_id"),
            code: value.pointer("/metadata/event_code").and_then(|code| code.as_str()).unwrap_or_default().to_string(),
            session: format!("{}/{}", record.tenant, record.session_key),
            at: told.at,
            request_at: told.request_at,
            value,
            text,
        });
        self.rendered += 1;
        match self.check_every {
            0 => Rendered::Event(event),
            every if self.rendered % every != 1 % every => Rendered::Event(event),
            _ => match self.fault(&event) {
                None => Rendered::Event(event),
                Some(reason) => {
                    self.check_every = 1;
                    Rendered::Invalid { event, reason }
                }
            },
        }
    }

    /// What is wrong with an event, if anything.
    pub(super) fn fault(&self, event: &Event) -> Option<String> {
        if event.text.len() > self.bytes_max {
            return Some(format!("longer than {} bytes and cannot be cut", self.bytes_max));
        }
        let Ok(read) = serde_json::from_str(&event.text) else { return Some("its text is not JSON".into()) };
        let found = validate(&read, self.version);
        let first = found.first()?;
        Some(format!("not valid OCSF {}: {first}{}", self.version, if found.len() > 1 { ", and more" } else { "" }))
    }

    fn is_wanted(&self, told: &Told) -> bool {
        let names =
            [Some(&told.record), told.request.as_ref()].into_iter().flatten().map(|record| record.kind.as_str());
        let among = |list: &[String]| names.clone().any(|name| list.iter().any(|wanted| wanted == name));
        (self.kinds.is_empty() || among(&self.kinds))
            && !among(&self.kinds_except)
            && (self.tenants.is_empty() || self.tenants.contains(&told.record.tenant))
    }
}

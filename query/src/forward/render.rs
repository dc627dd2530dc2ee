//! What is told becomes an event: filter, map, cut to size, and a sample of them read back and validated.
//!
//! Invariants
//! - an event is at most `event_bytes_max` bytes; what was cut has `metadata.is_truncated` and its former size, what cannot be
//!   cut to that is not sent
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
    is_test: bool,
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
            is_test: false,
        }
    }

    /// One whose events are marked as samples ([`ocsf::TEST_LABEL`]).
    pub(super) fn of_samples(common: &Common, base_url: Option<String>) -> Renderer {
        Renderer { is_test: true, ..Renderer::new(common, base_url) }
    }

    /// The event of what is told.
    pub(super) fn render(&mut self, told: &Told) -> Rendered {
        if !self.is_wanted(told) {
            return Rendered::Filtered;
        }
        let record = &told.record;
        let occurrence = Occurrence {
            request: told.request.as_ref(),
            session: Some(&told.session),
            is_test: self.is_test,
            ..Occurrence::of(record)
        };
        let mut value = ocsf::event(occurrence, &self.policy, self.version);
        if value["severity_id"].as_i64().unwrap_or(0) < self.severity_min {
            return Rendered::Filtered;
        }
        let mut text = display::json(ocsf::to_text(&value));
        if text.len() > self.bytes_max {
            value = ocsf::shortened(value, self.bytes_max, self.version);
            text = display::json(ocsf::to_text(&value));
        }
        let number = |name: &str| value[name].as_i64().unwrap_or(0);
        let named = |path: &str| value.pointer(path).and_then(|text| text.as_str()).unwrap_or_default().to_string();
        let event = Box::new(Event {
            uid: named("/metadata/uid"),
            time_ms: number("time"),
            class_uid: number("class_uid"),
            severity_id: number("severity_id"),
            code: named("/metadata/event_code"),
            correlation: named("/metadata/correlation_uid"),
            session: format!("{}/{}", record.tenant, record.session_key),
            at: told.at,
            request_at: told.request_at,
            text,
        });
        self.rendered += 1;
        let is_due = self.check_every > 0 && self.rendered % self.check_every == 1 % self.check_every;
        let fault = if is_due || event.text.len() > self.bytes_max { self.fault(&event) } else { None };
        match fault {
            None => Rendered::Event(event),
            Some(reason) => {
                self.check_every = self.check_every.min(1);
                Rendered::Invalid { event, reason }
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::position::Position;
    use crate::forward::testing::event;
    use threadline_schemas::ocsf::samples;
    use threadline_schemas::{Kind, Record};

    fn told(record: Record) -> Told {
        Told::of(record, Position::before(0))
    }

    #[test]
    fn what_is_not_valid_is_found_in_the_text_that_would_be_sent() {
        let renderer = Renderer::new(&Common::default(), None);
        let good = event(1);
        assert_eq!(renderer.fault(&good), None);
        for (what, with, reason) in [
            ("\"class_uid\":6003", "\"class_uid\":6999", "class_uid: not a class of the facts"),
            ("\"severity_id\":", "\"severity_id\":4", "severity_id: not one of the enum's values"),
            ("\"metadata\":{", "\"metadata\":{\"colour\":1,", "metadata.colour: not an attribute here"),
            ("\"time\":1", "\"time\":", "time: is no timestamp_t"),
            ("{\"time\"", "{\"time", "its text is not JSON"),
        ] {
            let mut bad = good.clone();
            bad.text = good.text.replacen(what, with, 1);
            assert_ne!(bad.text, good.text, "{what}");
            let said = renderer.fault(&bad).unwrap_or_default();
            assert!(said.contains(reason), "{what}: {said}");
        }
    }

    #[test]
    fn an_event_that_cannot_be_cut_is_not_sent_and_makes_every_later_one_be_checked() {
        let common = Common { event_bytes_max: 2048, check_every: 16, ..Common::default() };
        let mut renderer = Renderer::new(&common, None);
        let sample = || samples::records().into_iter().find(|record| record.kind == Kind::Result).unwrap();
        // The first is due; the second is not, and is found all the same.
        let mut long = sample();
        let name = |letter: &str| Some(letter.repeat(500));
        (long.tool_name, long.server_name, long.user_claimed) = (name("t"), name("s"), name("u"));
        (long.conversation_id, long.tool_call_id) = (name("c"), name("i"));
        let mut small = sample();
        small.text = None;
        assert!(matches!(renderer.render(&told(small.clone())), Rendered::Event(_)));
        let Rendered::Invalid { reason, .. } = renderer.render(&told(long)) else { panic!("it is sent") };
        assert_eq!(reason, "longer than 2048 bytes and cannot be cut");
        assert_eq!(renderer.check_every, 1);
        assert!(matches!(renderer.render(&told(small)), Rendered::Event(_)));
    }

    #[test]
    fn filters_look_at_kind_severity_and_tenant() {
        let mut records = samples::records();
        for (n, record) in records.iter_mut().enumerate() {
            record.tenant = if n % 2 == 0 { "acme".into() } else { "other".into() };
        }
        let all = |common: &Common| {
            let mut renderer = Renderer::new(common, None);
            let mut kept = Vec::new();
            for record in &records {
                match renderer.render(&told(record.clone())) {
                    Rendered::Event(event) => kept.push((record, event)),
                    Rendered::Filtered => {}
                    Rendered::Invalid { reason, .. } => panic!("{reason}"),
                }
            }
            kept
        };
        let every = all(&Common::default());
        assert_eq!(every.len(), records.len());
        let same = |found: &[(&Record, Box<Event>)], is_wanted: &dyn Fn(&Record, &Event) -> bool| {
            let ids =
                |kept: &[(&Record, Box<Event>)]| kept.iter().map(|(_, event)| event.uid.clone()).collect::<Vec<_>>();
            let wanted = every.iter().filter(|(record, event)| is_wanted(record, event));
            let wanted: Vec<String> = wanted.map(|(_, event)| event.uid.clone()).collect();
            assert!(!wanted.is_empty() && wanted.len() < every.len(), "the filter means something");
            assert_eq!(ids(found), wanted);
        };
        let kinds = || vec!["decision".to_string(), "finding".to_string()];
        let is_named = |record: &Record| kinds().iter().any(|kind| kind == record.kind.as_str());
        same(&all(&Common { kinds: kinds(), ..Common::default() }), &|record, _| is_named(record));
        same(&all(&Common { kinds_except: kinds(), ..Common::default() }), &|record, _| !is_named(record));
        same(&all(&Common { severity_min: 3, ..Common::default() }), &|_, event| event.severity_id >= 3);
        same(&all(&Common { tenants: vec!["acme".into()], ..Common::default() }), &|record, _| record.tenant == "acme");
        let both = Common { tenants: vec!["other".into()], severity_min: 2, ..Common::default() };
        same(&all(&both), &|record, event| record.tenant == "other" && event.severity_id >= 2);
    }
}

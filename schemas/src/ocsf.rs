//! Records as OCSF events: what a SIEM that speaks the Open Cybersecurity Schema Framework receives.
//!
//! [`mapping`] is the table from record kind to class, activity, profiles and attribute paths;
//! [`event`] fills an event of the newest version from it; [`fit`] moves what an older version does
//! not know to `unmapped`; [`validate`] checks any event against [`facts`], the compact class facts.
//!
//! Invariants
//! - every record kind has a row, checked when the table is compiled; there is no default row
//! - every event answers who, in which session, which tool and what verdict without a join, in every version
//! - a verdict is always in `status_id` and `status_code` too, so a version without the profile
//!   `security_control` does not lose it
//! - content is given as digest and length; text only where [`Policy::text_bytes_max`] allows, never more than that
//! - no text holds a control, bidi or zero-width character: they are shown as visible tokens ([`crate::display`])
//!
//! Not here: which records belong together, delivery, cursors. Callers pass an [`Occurrence`].

pub mod event;
pub mod facts;
pub mod fit;
pub mod lake;
pub mod mapping;
mod shorten;
pub mod validate;

pub use event::{Occurrence, Policy, SessionFacts, TEST_LABEL, TEST_UID, event, samples, to_text};
pub use facts::Version;
pub use shorten::shortened;
pub use validate::{Violation, validate};

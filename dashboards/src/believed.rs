//! What a session page is to believe: the weakest grade of link, and the moment as of which links are known. Both stand in
//! the address, so every link of the page keeps them and its export asks for the same.
//!
//! Not here: how a session is put together so (`threadline_query`).

use threadline_query::SessionOptions;
use threadline_query::line::parse_time;
use threadline_query::model::Grade;
use threadline_query::session::Options;

use crate::answers::ReadError;
use crate::pages::Params;
use crate::text::Href;
use crate::words;

/// What is to be believed: the weakest grade of link that is followed, and the moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Believed {
    grade: Option<(Grade, &'static str)>,
    as_known_at: Option<String>,
}

/// Grades that a session can be shown at.
pub(crate) const FLOORS: [Grade; 4] = [Grade::Proven, Grade::Matched, Grade::Claimed, Grade::Inferred];

impl Believed {
    /// From the address. What cannot be understood is an error: nothing is dropped in silence.
    pub(crate) fn of(params: &Params) -> Result<Believed, ReadError> {
        let grade = params.get("grade").map(|word| {
            let found = FLOORS.into_iter().find(|grade| words::grade(*grade).word == word);
            found.ok_or_else(|| ReadError::Question("grade: proven, matched, claimed or inferred".into()))
        });
        let known = params.get("as_known_at").map(|text| {
            words::typed_time(text)
                .ok_or_else(|| ReadError::Question("as known at: a time, such as 2026-11-20 10:00".into()))
        });
        let grade = grade.transpose()?.filter(|grade| *grade != Options::default().grade_floor);
        Ok(Believed { grade: grade.map(|grade| (grade, words::grade(grade).word)), as_known_at: known.transpose()? })
    }

    /// As the reading side takes it.
    pub(crate) fn options(&self) -> SessionOptions {
        let options = self.grade.map_or_else(Options::default, |(grade_floor, _)| Options { grade_floor });
        let known_at_us = self.as_known_at.as_deref().and_then(parse_time).map(|nanos| nanos.div_euclid(1000));
        SessionOptions { options, records_max: None, known_at_us }
    }

    /// The word of the grade, where it is not the usual one.
    pub(crate) fn grade(&self) -> Option<&'static str> {
        self.grade.map(|(_, word)| word)
    }

    /// The moment, RFC 3339.
    pub(crate) fn as_known_at(&self) -> Option<&str> {
        self.as_known_at.as_deref()
    }

    /// An address that keeps it.
    pub(crate) fn on(&self, href: Href) -> Href {
        href.with_some("grade", self.grade()).with_some("as_known_at", self.as_known_at.as_deref())
    }
}

//! Server-sent events out of the chunks of a response body (WHATWG HTML section 9.2).
//!
//! Not here: the `retry` field, which says nothing about what happened.

/// One event that has data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// `event` field: `message`, or `endpoint` in the transport of 2024-11-05.
    pub(super) name: Option<String>,
    pub(super) id: Option<String>,
    pub(super) data: Vec<u8>,
}

/// Reads a stream chunk by chunk; holds at most what was not yet ended by a blank line.
#[derive(Debug, Default)]
pub(super) struct Reader {
    line: Vec<u8>,
    name: Option<String>,
    id: Option<String>,
    data: Option<Vec<u8>>,
    /// What comes belongs to an event whose beginning is missing.
    is_skipping: bool,
    /// The last chunk ended in `\r`: a `\n` that follows belongs to it.
    after_return: bool,
}

impl Reader {
    /// The events that `chunk` completes.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        if chunk.is_empty() {
            return events;
        }
        let mut rest = chunk;
        if self.after_return {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        self.after_return = chunk.ends_with(b"\r");
        while let Some(end) = memchr::memchr2(b'\r', b'\n', rest) {
            self.line.extend_from_slice(&rest[..end]);
            let length = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
            rest = &rest[end + length..];
            let line = std::mem::take(&mut self.line);
            events.extend(self.end_line(&line));
        }
        self.line.extend_from_slice(rest);
        events
    }

    /// Gives up the event in the making: a part of it was lost.
    pub(super) fn skip_to_next(&mut self) {
        *self = Reader { is_skipping: true, ..Reader::default() };
    }

    /// Bytes of an event that has not ended.
    pub(super) fn held(&self) -> usize {
        self.line.len() + self.data.as_ref().map_or(0, Vec::len)
    }

    fn end_line(&mut self, line: &[u8]) -> Option<Event> {
        if line.is_empty() {
            let (name, id, data) = (self.name.take(), self.id.take(), self.data.take());
            let is_whole = !std::mem::take(&mut self.is_skipping);
            return data.filter(|data| is_whole && !data.is_empty()).map(|data| Event { name, id, data });
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[..0]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                let data = self.data.get_or_insert_default();
                if !data.is_empty() {
                    data.push(b'\n');
                }
                data.extend_from_slice(value);
            }
            b"event" => self.name = Some(String::from_utf8_lossy(value).into_owned()),
            b"id" => self.id = Some(String::from_utf8_lossy(value).into_owned()),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn events(chunks: &[&[u8]]) -> Vec<(Option<String>, String)> {
        let mut reader = Reader::default();
        let events = chunks.iter().flat_map(|chunk| reader.feed(chunk));
        events.map(|event| (event.id, String::from_utf8(event.data).unwrap())).collect()
    }

    #[test]
    fn events_end_at_blank_lines_however_they_are_cut() {
        let stream = "id: 1\ndata: \n\nevent: message\r\nid: 2\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\n: note\rdata:\u{fc}\r\rdata: open";
        let whole = events(&[stream.as_bytes()]);
        expect![[r#"
            [
                (
                    Some(
                        "2",
                    ),
                    "{\"a\":\n1}",
                ),
                (
                    None,
                    "ü",
                ),
            ]
        "#]]
        .assert_debug_eq(&whole);
        for cut in 0..stream.len() {
            let (first, second) = stream.as_bytes().split_at(cut);
            assert_eq!(events(&[first, second]), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(events(&bytes), whole);
    }

    #[test]
    fn after_a_loss_the_next_whole_event_is_read() {
        let mut reader = Reader::default();
        assert!(reader.feed(b"data: be").is_empty());
        reader.skip_to_next();
        let events = reader.feed(b"ginning\ndata: rest\n\nevent: message\ndata: whole\n\n");
        let event = Event { name: Some("message".into()), id: None, data: b"whole".to_vec() };
        assert_eq!(events, [event]);
    }
}

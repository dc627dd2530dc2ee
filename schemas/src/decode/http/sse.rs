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
    /// Id of the last event without data: where a client may resume (2025-11-25 begins streams with one).
    empty_id: Option<String>,
    /// The first line, which may have a byte order mark before it, has ended.
    is_begun: bool,
}

/// A stream may begin with it once.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

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

    /// The id of an event without data that came since this was asked last.
    pub(super) fn take_empty_id(&mut self) -> Option<String> {
        self.empty_id.take()
    }

    /// Gives up the event in the making: a part of it was lost.
    pub(super) fn skip_to_next(&mut self) {
        *self = Reader { is_skipping: true, is_begun: true, ..Reader::default() };
    }

    /// Bytes of an event that has not ended.
    pub(super) fn held(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.line.len()
            + self.data.as_ref().map_or(0, Vec::len)
            + text(&self.name)
            + text(&self.id)
            + text(&self.empty_id)
    }

    fn end_line(&mut self, line: &[u8]) -> Option<Event> {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        let line = line.strip_prefix(BYTE_ORDER_MARK).filter(|_| is_first).unwrap_or(line);
        if line.is_empty() {
            let (name, id, data) = (self.name.take(), self.id.take(), self.data.take());
            let is_whole = !std::mem::take(&mut self.is_skipping);
            let data = data.filter(|data| is_whole && !data.is_empty());
            if data.is_none() && id.is_some() {
                self.empty_id.clone_from(&id);
            }
            return data.map(|data| Event { name, id, data });
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[..0]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                // Lines are joined by line feeds, empty ones too.
                match &mut self.data {
                    None => self.data = Some(value.to_vec()),
                    Some(data) => {
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                }
            }
            b"event" => self.name = Some(String::from_utf8_lossy(value).into_owned()),
            b"id" if !value.contains(&0) => self.id = Some(String::from_utf8_lossy(value).into_owned()),
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
    fn a_byte_order_mark_stands_before_the_first_line_only() {
        let read = |stream: &[u8]| events(&stream.chunks(1).collect::<Vec<_>>());
        let data = |text: &str| (None, text.to_string());
        assert_eq!(read(b"\xef\xbb\xbfdata: 1\n\n\xef\xbb\xbfdata: 2\n\ndata: 3\n\n"), [data("1"), data("3")]);
        assert_eq!(read(b"\xef\xbb\xbf: note\ndata: 1\n\n"), [data("1")]);
    }

    #[test]
    fn lines_of_data_are_joined_and_an_id_with_a_nul_is_none() {
        let read = |stream: &str| events(&[stream.as_bytes()]);
        assert_eq!(read("data:\ndata: x\ndata\n\n"), [(None, "\nx\n".to_string())]);
        assert_eq!(read("data:  x\nid: a\0b\n\n"), [(None, " x".to_string())]);
        assert_eq!(read("retry: 5\ndata: x\nid\n\n"), [(Some(String::new()), "x".to_string())]);
        assert_eq!(read("data\n\n"), []);
    }

    #[test]
    fn every_field_of_an_open_event_is_held() {
        let mut reader = Reader::default();
        reader.feed(
            &[b"event: ", "e".repeat(1000).as_bytes(), b"\nid: ", "i".repeat(1000).as_bytes(), b"\ndata: x\nda"]
                .concat(),
        );
        assert_eq!(reader.held(), 2003);
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

//! Server-sent events out of the chunks of a response body (WHATWG HTML section 9.2).
//!
//! Not here: `event` and `retry` fields, which MCP does not use.

/// One event that has data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) id: Option<String>,
    pub(super) data: String,
}

/// Reads a stream chunk by chunk; holds at most what was not yet ended by a blank line.
#[derive(Debug, Default)]
pub(super) struct Reader {
    line: String,
    id: Option<String>,
    data: Option<String>,
    /// The last chunk ended in `\r`: a `\n` that follows belongs to it.
    after_return: bool,
}

impl Reader {
    /// The events that `chunk` completes.
    pub(super) fn feed(&mut self, chunk: &str) -> Vec<Event> {
        let mut events = Vec::new();
        if chunk.is_empty() {
            return events;
        }
        let mut rest = chunk;
        if self.after_return {
            rest = rest.strip_prefix('\n').unwrap_or(rest);
        }
        self.after_return = chunk.ends_with('\r');
        while let Some(end) = rest.find(['\r', '\n']) {
            self.line.push_str(&rest[..end]);
            let length = if rest[end..].starts_with("\r\n") { 2 } else { 1 };
            rest = &rest[end + length..];
            let line = std::mem::take(&mut self.line);
            events.extend(self.end_line(&line));
        }
        self.line.push_str(rest);
        events
    }

    /// Bytes of an event that has not ended.
    pub(super) fn held(&self) -> usize {
        self.line.len() + self.data.as_ref().map_or(0, String::len)
    }

    fn end_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let data = self.data.take();
            let id = self.id.take();
            return data.filter(|data| !data.is_empty()).map(|data| Event { id, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                let data = self.data.get_or_insert_default();
                if !data.is_empty() {
                    data.push('\n');
                }
                data.push_str(value);
            }
            "id" => self.id = Some(value.into()),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn events(chunks: &[&str]) -> Vec<Event> {
        let mut reader = Reader::default();
        chunks.iter().flat_map(|chunk| reader.feed(chunk)).collect()
    }

    #[test]
    fn events_end_at_blank_lines_however_they_are_cut() {
        let stream =
            "id: 1\ndata: \n\nevent: message\r\nid: 2\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\n: note\rdata:x\r\rdata: open";
        let whole = events(&[stream]);
        expect![[r#"
            [
                Event {
                    id: Some(
                        "2",
                    ),
                    data: "{\"a\":\n1}",
                },
                Event {
                    id: None,
                    data: "x",
                },
            ]
        "#]]
        .assert_debug_eq(&whole);
        for cut in 0..stream.len() {
            assert_eq!(events(&[&stream[..cut], &stream[cut..]]), whole, "cut at {cut}");
        }
        let characters: Vec<String> = stream.chars().map(String::from).collect();
        assert_eq!(events(&characters.iter().map(String::as_str).collect::<Vec<_>>()), whole);
    }
}

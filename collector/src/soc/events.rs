//! Reading an event stream (WHATWG server-sent events): bytes in, events out, whatever way they are cut.

/// Longest event that is read: a summary is far shorter.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The last `id` seen up to this event.
    pub id: String,
    /// Its `event` name; empty stands for `message`.
    pub name: String,
    /// Its `data` lines, joined by newlines.
    pub data: String,
}

/// The stream holds an event that is too long or not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event stream holds an event over {EVENT_BYTES_MAX} bytes, or one that is not text")]
pub struct EventError;

/// Cuts events out of a byte stream.
#[derive(Debug, Default)]
pub struct EventReader {
    line: Vec<u8>,
    after_return: bool,
    id: String,
    name: String,
    data: String,
    any_data: bool,
}

impl EventReader {
    /// Takes what was read and gives the events that it completes.
    ///
    /// # Errors
    /// The stream is of no further use then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, EventError> {
        let mut events = Vec::new();
        for byte in bytes {
            let newline_of_pair = *byte == b'\n' && self.after_return;
            self.after_return = *byte == b'\r';
            if newline_of_pair {
                continue;
            }
            if matches!(byte, b'\n' | b'\r') {
                events.extend(self.end_line()?);
            } else {
                self.line.push(*byte);
                if self.line.len() + self.data.len() > EVENT_BYTES_MAX {
                    return Err(EventError);
                }
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Result<Option<Event>, EventError> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8(line).map_err(|_| EventError)?;
        if line.is_empty() {
            return Ok(self.end_event());
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.any_data {
                    self.data.push('\n');
                }
                self.any_data = true;
                self.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.name),
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            // Comments (an empty field name) keep the connection alive; others are for newer readers.
            _ => {}
        }
        Ok(None)
    }

    fn end_event(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        std::mem::take(&mut self.any_data).then(|| Event { id: self.id.clone(), name, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = ": hello\n\nid: 7\nevent: finding\ndata: {\"a\":\ndata: 1}\n\nid: 8\r\ndata:x\r\n\r\nevent: none\n\ndata: y\n\n";

    fn expected() -> Vec<Event> {
        let event =
            |id: &str, name: &str, data: &str| Event { id: id.into(), name: name.into(), data: data.into() };
        vec![event("7", "finding", "{\"a\":\n1}"), event("8", "", "x"), event("8", "", "y")]
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut reader = EventReader::default();
        let block = [b'x'; 64 * 1024];
        assert!((0..17).any(|_| reader.push(&block).is_err()));
        let mut reader = EventReader::default();
        let line = [&b"data: "[..], &[b'x'; 60 * 1024], b"\n"].concat();
        assert!((0..19).any(|_| reader.push(&line).is_err()));
    }

    proptest! {
        #[test]
        fn however_the_stream_is_cut(cuts in proptest::collection::vec(0usize..STREAM.len(), 0..10)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let (mut reader, mut events, mut from) = (EventReader::default(), Vec::new(), 0);
            for to in cuts.into_iter().chain([STREAM.len()]) {
                events.extend(reader.push(&STREAM.as_bytes()[from..to]).unwrap());
                from = to;
            }
            prop_assert_eq!(events, expected());
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            drop(EventReader::default().push(&bytes));
        }
    }
}

//! Server-sent events, read with bounds. What passes here is safe to parse: complete events only, each
//! `[DONE]` or one JSON document. (The library behind us logs the whole text of what it cannot parse.)

/// Takes a stream of bytes apart into the data of its events, as the HTML standard has it (9.2.6):
/// lines end in CR, LF or both, `data:` lines of one event are joined by line feeds, an empty line ends
/// it, and everything else is left out.
#[derive(Debug, Default)]
pub struct EventDecoder {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was a CR: an LF after it belongs to the same line end.
    after_return: bool,
    started: bool,
}

/// An event, or a line of one, of more bytes than were allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {0} bytes")]
pub struct EventTooLong(usize);

impl EventDecoder {
    /// Feeds bytes, cut anywhere; complete events are appended to `events`.
    ///
    /// # Errors
    /// More than `most` bytes belong to one event.
    pub fn feed(&mut self, bytes: &[u8], most: usize, events: &mut Vec<Vec<u8>>) -> Result<(), EventTooLong> {
        let mut bytes = bytes;
        if self.after_return {
            self.after_return = bytes.is_empty();
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.line.extend_from_slice(&bytes[..end]);
            let returned = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if returned {
                self.after_return = bytes.is_empty();
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
            self.end_line(events);
            self.check(most)?;
        }
        self.line.extend_from_slice(bytes);
        self.check(most)
    }

    fn check(&self, most: usize) -> Result<(), EventTooLong> {
        if self.line.len() + self.data.len() > most { Err(EventTooLong(most)) } else { Ok(()) }
    }

    fn end_line(&mut self, events: &mut Vec<Vec<u8>>) {
        let mut line = std::mem::take(&mut self.line);
        if !self.started {
            self.started = true;
            if line.starts_with(b"\xef\xbb\xbf") {
                line.drain(..3);
            }
        }
        if line.is_empty() {
            if self.has_data {
                events.push(std::mem::take(&mut self.data));
                self.has_data = false;
            }
            return;
        }
        let value = match line.strip_prefix(b"data") {
            Some([]) => &[][..],
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => value,
            _ => return,
        };
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
    }
}

/// One event on one line: JSON has line breaks only where white space may be.
pub(super) fn event(data: &[u8]) -> Vec<u8> {
    let mut event = Vec::with_capacity(data.len() + 8);
    event.extend_from_slice(b"data: ");
    event.extend(data.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    event.extend_from_slice(b"\n\n");
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> Vec<String> {
        let mut decoder = EventDecoder::default();
        let mut events = Vec::new();
        for piece in pieces {
            decoder.feed(piece, 1000, &mut events).unwrap();
        }
        events.into_iter().map(|event| String::from_utf8(event).unwrap()).collect()
    }

    #[test]
    fn events_of_the_standard() {
        let text: &[u8] =
            b"\xef\xbb\xbf: comment\nevent: x\nid: 7\ndata: a\ndata:b\ndata\n\ndata: c\r\n\r\ndata:  d\r\rretry: 1\n\ndata: never ended\n";
        let expected = ["a\nb\n", "c", " d"];
        assert_eq!(decode(&[text]), expected);
        // Cut at every place, and byte by byte.
        for cut in 0..=text.len() {
            assert_eq!(decode(&[&text[..cut], &text[cut..]]), expected, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(decode(&bytes), expected);
    }

    #[test]
    fn promise_34_endless_events_are_refused() {
        let mut decoder = EventDecoder::default();
        let mut events = Vec::new();
        let piece = [b'x'; 600];
        assert!(decoder.feed(b"data: ", 1000, &mut events).is_ok());
        assert!(decoder.feed(&piece, 1000, &mut events).is_ok());
        assert!(decoder.feed(&piece, 1000, &mut events).is_err());
        let mut lines = EventDecoder::default();
        assert!((0..1000).any(|_| lines.feed(b"data: y\n", 1000, &mut events).is_err()));
    }

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(event(b"{\n\"a\": 1\r\n}"), b"data: { \"a\": 1  }\n\n");
    }
}

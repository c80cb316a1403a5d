//! Server-sent events, as a client reads them.
//!
//! Source: the HTML standard, section 9.2, "Server-sent events". Only `\n` ends a line here: the bridge writes no other.

use std::mem;

use reqwest::Response;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// `message` if the stream names none.
    pub(super) kind: String,
    /// The id, if this event has one.
    pub(super) id: Option<String>,
    pub(super) data: String,
}

/// The events of an answer.
pub(super) struct Stream {
    response: Response,
    received: Vec<u8>,
    /// How much of `received` has been read.
    read: usize,
    next: Message,
}

impl Stream {
    pub(super) fn new(response: Response) -> Self {
        Self { response, received: Vec::new(), read: 0, next: Message::empty() }
    }

    /// The next event; `None` behind the last. May be dropped at any moment.
    pub(super) async fn next(&mut self) -> reqwest::Result<Option<Message>> {
        loop {
            while let Some(line) = self.line() {
                if let Some(message) = self.next.take(&line) {
                    return Ok(Some(message));
                }
            }
            match self.response.chunk().await? {
                Some(piece) => self.received.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let rest = self.received.get(self.read..).unwrap_or_default();
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            self.received.drain(..mem::take(&mut self.read));
            return None;
        };
        let line = rest.get(..length).unwrap_or_default();
        let line = String::from_utf8_lossy(line).into_owned();
        self.read += length + 1;
        Some(line)
    }
}

impl Message {
    fn empty() -> Self {
        Self { kind: String::new(), id: None, data: String::new() }
    }

    /// Takes in a line; an empty one completes the event.
    fn take(&mut self, line: &str) -> Option<Self> {
        if line.is_empty() {
            let mut done = mem::replace(self, Self::empty());
            // An event without data is none.
            done.data.pop()?;
            if done.kind.is_empty() {
                "message".clone_into(&mut done.kind);
            }
            return Some(done);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "id" => self.id = Some(value.to_owned()),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Vec<Message> {
        let mut next = Message::empty();
        text.split('\n').filter_map(|line| next.take(line)).collect()
    }

    fn message(kind: &str, id: Option<&str>, data: &str) -> Message {
        Message { kind: kind.to_owned(), id: id.map(str::to_owned), data: data.to_owned() }
    }

    #[test]
    fn events_are_what_stands_between_empty_lines() {
        let text = ":\n\nretry: 1000\n\nid: a\ndata: {}\n\nevent: end\ndata: 1\ndata:2\nother: x\n\n";
        assert_eq!(messages(text), [message("message", Some("a"), "{}"), message("end", None, "1\n2")]);
    }

    #[test]
    fn what_is_not_complete_is_no_event() {
        assert_eq!(messages("id: a\ndata: {}"), []);
        assert_eq!(messages("id: a\ndata: {}\n"), []);
    }
}

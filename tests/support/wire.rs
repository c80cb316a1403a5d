//! HTTP/1.1 by hand: what is sent is exactly what a test wrote, and nothing is logged or corrected on the way.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An answer as it came.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case, in the order in which they came.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let answer = Self::parse_head(head)?;
        let body = if answer.header("transfer-encoding").is_some() { unchunk(body)? } else { body.to_owned() };
        Some(Self { body, ..answer })
    }

    fn parse_head(head: &str) -> Option<Self> {
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        Some(Self { status, headers: lines.filter_map(field).collect(), body: String::new() })
    }

    /// The value of a header that must not be there twice.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} is there twice");
        value
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of a problem, whose form is checked on the way.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{self:?}");
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"), "{self:?}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{self:?}");
        problem["code"].as_str().unwrap().to_owned()
    }

    /// Status and code of a problem.
    #[track_caller]
    pub(crate) fn problem(&self) -> (u16, String) {
        (self.status, self.code())
    }
}

fn unchunk(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (length, data) = rest.split_once("\r\n")?;
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.push_str(data.get(..length)?);
        rest = data.get(length..)?.strip_prefix("\r\n")?;
    }
}

/// Sends bytes and returns all that comes until the server closes the connection.
pub(crate) async fn converse(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has refused the rest may close before all is sent; what it said can be read all the same.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(Duration::from_mins(1), stream.read_to_end(&mut answer));
    let _ = reading.await.expect("the server neither answers nor closes");
    answer
}

/// Sends a request that asks for the connection to be closed, and returns the answer.
pub(crate) async fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let bytes = converse(address, request).await;
    Answer::parse(&bytes).unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&bytes)))
}

/// Nothing that a stream says takes longer, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer that is read as it comes.
pub(crate) struct Streamed {
    /// The answer without its body.
    pub(crate) head: Answer,
    pub(crate) connection: TcpStream,
    /// What has come and is not taken apart yet.
    raw: Vec<u8>,
    /// What of the body has come and is not read yet.
    body: Vec<u8>,
    /// Whether all of the body has come.
    whole: bool,
}

impl Streamed {
    /// Sends a request and returns when the head of the answer has come.
    pub(crate) async fn open(address: SocketAddr, request: &[u8]) -> Self {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(request).await.unwrap();
        let mut raw = Vec::new();
        let head = loop {
            if let Some(end) = raw.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break raw.drain(..end + 4).collect::<Vec<_>>();
            }
            assert!(receive(&mut connection, &mut raw).await, "no head: {:?}", String::from_utf8_lossy(&raw));
        };
        let head = Answer::parse_head(std::str::from_utf8(&head).unwrap()).unwrap();
        let mut streamed = Self { head, connection, raw, body: Vec::new(), whole: false };
        streamed.take_apart();
        streamed
    }

    fn take_apart(&mut self) {
        if let Some(length) = self.head.header("content-length") {
            self.body.append(&mut self.raw);
            self.whole = self.body.len().to_string() == length;
            return;
        }
        let mut rest = self.raw.as_slice();
        while let Some(end) = rest.windows(2).position(|bytes| bytes == b"\r\n") {
            let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
            let Some(chunk) = rest.get(end + 2..end + 2 + length + 2) else { break };
            self.whole |= length == 0;
            self.body.extend(&chunk[..length]);
            rest = &rest[end + 2 + length + 2..];
        }
        self.raw.drain(..self.raw.len() - rest.len());
    }

    /// All up to and with `text`, as soon as it has come.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let mut searched = 0;
        loop {
            if let Some(at) = self.body[searched..].windows(text.len()).position(|bytes| bytes == text.as_bytes()) {
                return String::from_utf8(self.body.drain(..searched + at + text.len()).collect()).unwrap();
            }
            searched = self.body.len().saturating_sub(text.len());
            let open = receive(&mut self.connection, &mut self.raw).await;
            self.take_apart();
            let last = &self.body[self.body.len().saturating_sub(500)..];
            assert!(open, "{text:?} did not come: {:?}", String::from_utf8_lossy(last));
        }
    }

    /// The next line without its end.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = self.until("\n").await;
        line.pop();
        line
    }

    /// All that comes until the answer has ended, and whether it has ended as HTTP has it and was not cut.
    pub(crate) async fn rest(mut self) -> (String, bool) {
        while !self.whole && receive(&mut self.connection, &mut self.raw).await {
            self.take_apart();
        }
        (String::from_utf8(self.body).unwrap(), self.whole)
    }
}

/// Reads what comes next; false if nothing comes any more.
async fn receive(connection: &mut TcpStream, raw: &mut Vec<u8>) -> bool {
    let read = timeout(PATIENCE, connection.read_buf(raw)).await.expect("nothing more comes");
    // A connection that was reset has ended too.
    read.is_ok_and(|count| count > 0)
}

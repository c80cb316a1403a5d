//! Measures how long a line takes from the job that prints it to those who follow the job's log. `benches/followers`
//! starts it, in one of these modes:
//!
//! * `print GO COUNT RATE` is the job. It waits until somebody writes to the named pipe GO, then prints COUNT marks, RATE
//!   of them a second. A mark has its number and the time at which it is printed.
//! * `follow PORT TOKEN JOB COUNT FOLLOWERS FORMAT...` follows over HTTP, on one thread; the followers take the formats in
//!   turn.
//! * `read COUNT` follows what another program writes to the standard input.
//!
//! The latter two print `ready` when each follower has its first line, and at the end the median, the 99th percentile and
//! the maximum of all lines at all followers, in milliseconds. They fail unless each follower got each mark once and in
//! order. All runs on one machine, so there is one clock.

use std::env;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What a mark begins with.
const MARK: &[u8] = b"mark ";
/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;
/// The longest that the followers wait for the end of the job.
const PATIENCE: Duration = Duration::from_mins(5);

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["print", go, count, rate] => print(Path::new(go), count.parse()?, rate.parse()?),
        ["read", count] => read(count.parse()?),
        ["follow", port, token, job, count, followers, formats @ ..] => {
            let requests = formats.iter().cycle().take(followers.parse()?).map(|format| request(token, job, format));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(follow(port.parse()?, requests, count.parse()?))
        }
        _ => bail!("wrong arguments; the head of benches/followers.rs says which there are"),
    }
}

fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

fn print(go: &Path, count: u32, rate: u32) -> Result<()> {
    // Opening blocks until somebody writes.
    fs::read(go).with_context(|| format!("{} is no pipe", go.display()))?;
    let mut out = io::stdout().lock();
    let start = Instant::now();
    for number in 0..count {
        let due = Duration::from_secs(1) * number / rate;
        thread::sleep(due.saturating_sub(start.elapsed()));
        // One write a line, so that no mark waits for the next.
        out.write_all(format!("mark {number} {}\n", now()?.as_nanos()).as_bytes())?;
    }
    Ok(())
}

fn read(count: u32) -> Result<()> {
    let mut marks = Marks::default();
    let mut buffer = vec![0; BUFFER];
    let mut input = io::stdin().lock();
    let mut told = false;
    while marks.next < count {
        let filled = input.read(&mut buffer)?;
        ensure!(filled > 0, "the input ended after {} marks", marks.next);
        marks.take(buffer.get(..filled).unwrap_or_default(), now()?)?;
        if !told && marks.lines > 0 {
            told = true;
            println!("ready");
        }
    }
    summary(marks.delays);
    Ok(())
}

fn request(token: &str, job: &str, format: &str) -> String {
    format!(
        "GET /api/job/{job}/tail?follow=true&lines=1&format={format} HTTP/1.1\r\nHost: localhost\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    )
}

async fn follow(port: u16, requests: impl Iterator<Item = String>, count: u32) -> Result<()> {
    let mut following = JoinSet::new();
    for request in requests {
        let follower = Follower::open(port, &request).await?;
        following.spawn(follower.finish());
    }
    println!("ready");
    let mut delays = Vec::new();
    let all = async {
        while let Some(marks) = following.join_next().await {
            let marks = marks??;
            ensure!(marks.next == count, "a follower got {} of {count} marks", marks.next);
            delays.extend(marks.delays);
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, all).await.context("a stream has not ended")??;
    summary(delays);
    Ok(())
}

/// A connection with an answer that does not end before the job does.
struct Follower {
    stream: TcpStream,
    chunks: Chunks,
    marks: Marks,
    buffer: Vec<u8>,
}

impl Follower {
    /// Asks, and waits for the head of the answer and a first line.
    async fn open(port: u16, request: &str) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut rest = request.as_bytes();
        while !rest.is_empty() {
            stream.writable().await?;
            if let Some(written) = ready(stream.try_write(rest))? {
                rest = rest.get(written..).unwrap_or_default();
            }
        }
        let mut follower = Self { stream, chunks: Chunks::Size(0), marks: Marks::default(), buffer: vec![0; BUFFER] };
        let mut head = Vec::new();
        let end = loop {
            head.extend_from_slice(follower.receive().await?);
            if let Some(at) = find(&head, b"\r\n\r\n") {
                break at + 4;
            }
        };
        let (head, body) = head.split_at(end);
        let text = String::from_utf8_lossy(head).to_ascii_lowercase();
        ensure!(text.starts_with("http/1.1 200 "), "{text}{}", String::from_utf8_lossy(body));
        ensure!(text.contains("\r\ntransfer-encoding: chunked\r\n"), "the answer is not chunked: {text}");
        follower.chunks.take(body, |data| follower.marks.take(data, now()?))?;
        while follower.marks.lines == 0 {
            follower.advance().await?;
        }
        Ok(follower)
    }

    /// Takes all marks up to the end of the answer.
    async fn finish(mut self) -> Result<Marks> {
        while self.chunks != Chunks::End {
            self.advance().await?;
        }
        Ok(self.marks)
    }

    async fn advance(&mut self) -> Result<()> {
        let filled = self.receive().await?.len();
        let now = now()?;
        let bytes = self.buffer.get(..filled).unwrap_or_default();
        self.chunks.take(bytes, |data| self.marks.take(data, now))
    }

    async fn receive(&mut self) -> Result<&[u8]> {
        loop {
            self.stream.readable().await?;
            match ready(self.stream.try_read(&mut self.buffer))? {
                Some(0) => bail!("the connection broke after {} marks", self.marks.next),
                Some(filled) => return Ok(self.buffer.get(..filled).unwrap_or_default()),
                None => {}
            }
        }
    }
}

fn ready(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Where in a chunked body a reader is (RFC 9112, 7.1).
#[derive(Debug, PartialEq, Eq)]
enum Chunks {
    /// In the line with the size of a chunk; the size as far as it was read.
    Size(usize),
    /// In the data; so much is left.
    Data(usize),
    /// In the end of the line behind the data.
    Behind,
    /// Behind the last chunk.
    End,
}

impl Chunks {
    fn take(&mut self, mut bytes: &[u8], mut data: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while let Some((first, mut rest)) = bytes.split_first() {
            match self {
                Self::Size(size) => match first {
                    b'\r' => {}
                    b'\n' => *self = if *size == 0 { Self::End } else { Self::Data(*size) },
                    digit => {
                        let digit = char::from(*digit).to_digit(16).context("the size of a chunk is no number")?;
                        *size = 16 * *size + digit as usize;
                    }
                },
                Self::Data(left) => {
                    let (part, behind) = bytes.split_at(bytes.len().min(*left));
                    data(part)?;
                    *left -= part.len();
                    if *left == 0 {
                        *self = Self::Behind;
                    }
                    rest = behind;
                }
                Self::Behind if *first == b'\n' => *self = Self::Size(0),
                Self::Behind => {}
                Self::End => break,
            }
            bytes = rest;
        }
        Ok(())
    }
}

/// The marks that one follower got.
#[derive(Debug, Default)]
struct Marks {
    /// The number of the mark that must come next.
    next: u32,
    /// Lines of any kind.
    lines: usize,
    delays: Vec<Duration>,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
}

impl Marks {
    fn take(&mut self, data: &[u8], now: Duration) -> Result<()> {
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            if part.ends_with(b"\n") && self.begun.is_empty() {
                self.line(part, now)?;
                continue;
            }
            self.begun.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.begun);
                self.line(&line, now)?;
            }
        }
        Ok(())
    }

    /// Takes a line of any format that may have a mark in it.
    fn line(&mut self, line: &[u8], now: Duration) -> Result<()> {
        self.lines += 1;
        let Some(at) = find(line, MARK) else { return Ok(()) };
        let mark = String::from_utf8_lossy(line.get(at + MARK.len()..).unwrap_or_default());
        let mut numbers = mark.split(|char: char| !char.is_ascii_digit());
        let number: u32 = numbers.next().unwrap_or_default().parse().context("a mark has no number")?;
        let nanos: u64 = numbers.next().unwrap_or_default().parse().context("a mark has no time")?;
        ensure!(number == self.next, "mark {number} came where mark {} was to come", self.next);
        self.next += 1;
        self.delays.push(now.saturating_sub(Duration::from_nanos(nanos)));
        Ok(())
    }
}

/// Prints the median, the 99th percentile and the maximum, in milliseconds.
fn summary(mut delays: Vec<Duration>) {
    delays.sort_unstable();
    let most = delays.len().saturating_sub(1);
    let at = |index: usize| delays.get(index).map_or(f64::NAN, |delay| 1000.0 * delay.as_secs_f64());
    println!("{:.2} {:.2} {:.2}", at(most / 2), at(most * 99 / 100), at(most));
}

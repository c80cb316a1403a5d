//! All that is logged in this process, by any crate, at any level.

use std::fmt::Write;
use std::sync::{Mutex, Once};

use log::kv::{Error, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Capture;

struct Fields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        write!(self.0, " {key}={value}").map_err(Error::from)
    }
}

impl Log for Capture {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut line = format!("{} {}: {}", record.level(), record.target(), record.args());
        record.key_values().visit(&mut Fields(&mut line)).unwrap();
        // Seen where a test fails.
        println!("{line}");
        LINES.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}

/// Begins to keep what is logged.
pub(crate) fn capture() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Capture).unwrap();
        log::set_max_level(LevelFilter::Trace);
    });
}

/// The lines up to now.
pub(crate) fn lines() -> Vec<String> {
    LINES.lock().unwrap().clone()
}

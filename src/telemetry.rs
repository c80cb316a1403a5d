//! The bridge's own log: structured fields into the journal, or plain lines to standard error.
//!
//! Absent on purpose: lines of jobs. A bridge that logged what it reads would read it again.

use std::error::Error;
use std::fmt;
use std::io::Write;

use log::{Level, LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::{JournalLog, connected_to_journal};

/// Shows an error and each of its causes on one line.
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Plain lines for a person who runs the daemon by hand.
struct StandardError;

impl Log for StandardError {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // There is nowhere left to tell of a failure here.
        let _ = writeln!(std::io::stderr(), "{}: {}", record.level(), record.args());
    }

    fn flush(&self) {}
}

/// Sends one record to the journal from a command, whose words go to its terminal. Where there is no journal, nobody is told.
pub fn tell_journal(said: fmt::Arguments<'_>, fields: &[(&str, &str)]) {
    let Ok(journal) = JournalLog::new() else { return };
    let record = Record::builder().level(Level::Info).target(module_path!()).args(said).key_values(&fields).build();
    // A command does not fail for what it says.
    let _ = journal.journal_send(&record);
}

/// Sends the log to the journal if that is where standard error goes, to standard error otherwise.
///
/// # Errors
/// When the socket of the journal cannot be opened, or a log was chosen before.
pub fn init(verbose: bool) -> Result<(), Box<dyn Error + Send + Sync>> {
    if connected_to_journal() {
        JournalLog::new()?.install()?;
    } else {
        log::set_boxed_logger(Box::new(StandardError))?;
    }
    log::set_max_level(if verbose { LevelFilter::Debug } else { LevelFilter::Info });
    Ok(())
}

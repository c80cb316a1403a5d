//! The bridge's own log: structured fields into the journal, or plain lines to standard error.
//!
//! Absent on purpose: lines of jobs. A bridge that logged what it reads would read it again.

use std::error::Error;
use std::fmt;

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

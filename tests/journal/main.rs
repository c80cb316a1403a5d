//! The journal reader against files that systemd's own code wrote, held against what journalctl reads in them.
//!
//! `systemd-journal-remote` writes the files: it is the same code as journald's, needs no running systemd, and takes
//! trusted fields from its input, so a test can say who wrote what.

#[cfg(test)]
mod damage;
#[cfg(test)]
mod fence;
#[cfg(test)]
mod files;
#[cfg(test)]
mod filters;
#[cfg(test)]
mod gaps;
#[cfg(test)]
mod layouts;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod support;
#[cfg(test)]
mod synchronize;
#[cfg(test)]
mod tail;

//! The texts that `ci-bridge init` puts into the system.
//!
//! Pure: this module makes texts and names the places they belong to. Who writes them, with which owner and mode, and
//! what is asked before something is replaced, is the command line's affair.

pub mod polkit;

/// The system user, and its group, that the service runs as; what polkit and D-Bus know it by.
pub const SERVICE_USER: &str = "ci-bridge";

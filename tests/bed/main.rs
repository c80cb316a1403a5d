//! Tests on a real systemd, journald, D-Bus and polkit.
//!
//! They boot beds, which need root, so they are ignored unless asked for: `make test` asks for them where they can run.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "what a test can't do without ends it")]

mod archive;
mod audit;
mod boot;
mod bridge;
mod check;
mod crashes;
mod faults;
mod fleet;
mod follow;
mod inputs;
mod logs;
mod machine;
mod main_job;
mod operator;
mod package;
mod random;
mod reader;
mod starts;
mod units;
mod workflow;

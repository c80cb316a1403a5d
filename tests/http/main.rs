//! The whole API over HTTP, on a systemd that is played on a real bus.
//!
//! They need `dbus-daemon` (package dbus) and `systemd-journal-remote` (package of that name), but neither root nor a
//! running systemd.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "what a test can't do without ends it")]

#[path = "../support/bridge.rs"]
mod bridge;
#[path = "../support/fleet/mod.rs"]
#[expect(dead_code, reason = "these tests need only a part of what it can do")]
mod fleet;
#[path = "../alerts/support.rs"]
#[expect(dead_code, reason = "these tests need only a part of what it can do")]
mod hook;
#[path = "../support/journal.rs"]
mod journal;
#[path = "../support/logged.rs"]
mod logged;
#[path = "../support/prometheus.rs"]
mod prometheus;
#[path = "../support/systemd1/mod.rs"]
mod systemd1;
#[path = "../support/wire.rs"]
mod wire;

mod alerts;
mod archive;
mod audit;
mod badges;
mod command_line;
mod economy;
mod edges;
mod endings;
mod events;
mod follow;
mod inputs;
mod instances;
mod manage;
mod metrics;
mod names;
mod outages;
mod params;
mod parity;
mod paths;
mod queue;
mod retries;
mod runners;
mod runs;
mod starts;
mod states;
mod stops;
mod tokens;

//! An authenticated HTTP API that starts allowed systemd units and tells what became of them.
pub mod auth;
pub mod cli;
pub mod config;
pub mod invocation;
pub mod policy;
pub mod setup;
pub mod systemd;
pub mod telemetry;

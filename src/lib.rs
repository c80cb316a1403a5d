//! An authenticated HTTP API that starts allowed systemd units and tells what became of them.
pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod http;
pub mod invocation;
pub mod jobs;
pub mod journal;
pub mod lifecycle;
pub mod policy;
pub mod setup;
pub mod systemd;
pub mod telemetry;

//! An authenticated HTTP API that starts allowed systemd units and tells what became of them.
pub mod invocation;
pub mod policy;
pub mod systemd;
pub mod telemetry;

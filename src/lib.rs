//! An authenticated HTTP API that starts allowed systemd units and tells what became of them.
//!
//! ```text
//!  request ─▶ http ─▶ auth ─▶ policy ─▶ jobs ─┬─▶ systemd ─▶ D-Bus ─▶ polkit ─▶ PID 1
//!               │     Caller  AllowedJob      │      ▲                            │
//!               │                             │      └── signals ◀── mirror ◀─────┘
//!               ◀──── Run, RunLog ────────────┼─▶ journal ─▶ files of journald
//!                                             └─▶ store ──▶ SQLite
//! ```
//!
//! Data flows one way, and types carry what has been decided: [`policy::Policy::admit`] is the only way to an
//! [`policy::AllowedJob`], and nothing else reaches systemd or the journal.
//!
//! * Pure: [`policy`] says which units may be touched, [`auth`] who asks, [`config`] what the administrator decided,
//!   [`inputs`] what a job may be given, [`invocation`] what one start of a unit is called, [`run`] what the bridge calls
//!   it, [`setup`] what is put into the system, [`import`] what the configuration of another monitor means here.
//! * Adapters: [`systemd`] talks to PID 1 and mirrors the states of units, [`journal`] reads what they wrote. Neither
//!   knows of the other. [`store`] keeps what became of runs, and knows of neither. [`archive`] keeps what the journal
//!   said when journald no longer does. [`credentials`] hands the inputs of jobs to systemd.
//! * [`runners`] reads the lists of runners of GitHub and GitLab, and knows of no job.
//! * [`alerts`] tells others of what happened, out of the outbox of [`store`]; [`fleet`] makes history and alerts of the
//!   polls of [`runners`].
//! * [`jobs`] joins the two in the use cases; [`http`] and [`cli`] are the ways in. [`audit`] notes what came of them.
//! * [`app`] puts the daemon together, [`lifecycle`] keeps it running, [`retention`] forgets what is old, [`telemetry`] is
//!   its own log.
//!
//! Absent: running commands, and any question to the journal but the one for a run of an allowed job.
//! `docs/architecture.md` has the invariants, and walks through a start and a log request.
pub mod alerts;
pub mod app;
pub mod archive;
pub mod audit;
pub mod auth;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod fleet;
pub mod http;
pub mod import;
pub mod inputs;
pub mod invocation;
pub mod jobs;
pub mod journal;
pub mod lifecycle;
pub mod outages;
pub mod policy;
pub mod retention;
pub mod run;
pub mod runners;
pub mod setup;
pub mod store;
pub mod systemd;
pub mod telemetry;

//! The metrics of runners and of their lists.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::text::{Family, labels};
use crate::fleet::{Place, Sample, SourceStatus, TransitionCounts};
use crate::runners::uptime::State;
use crate::runners::{Kind, Provider};

/// The windows of uptimes: what the label says, and how long they are.
pub(super) const WINDOWS: [(&str, Duration); 3] =
    [("24h", Duration::from_hours(24)), ("7d", Duration::from_hours(7 * 24)), ("30d", Duration::from_hours(30 * 24))];

const ONLINE: Family = Family::gauge("ci_runner_online", "Whether the runner is connected, as its service says.");
const BUSY: Family = Family::gauge("ci_runner_busy", "Whether it runs a job, if its service says so.");
const PAUSED: Family = Family::gauge("ci_runner_paused", "Whether it takes no new jobs, if its service says so.");
const UNKNOWN: Family = Family::gauge("ci_runner_state_unknown", "Whether nobody knows if it is connected.");
const UPTIME: Family =
    Family::gauge("ci_runner_uptime_ratio", "The part of the known time of a window that it was online.");
const CHANGED: Family =
    Family::gauge("ci_runner_state_change_timestamp_seconds", "When it was first seen in its present state.");
const TURNS: Family =
    Family::counter("ci_runner_transitions_total", "Changes of its state since ci-bridge was started.");
const INFO: Family = Family::gauge("ci_runner_info", "What else its service says of it.");

/// The names of other exporters, with their labels.
const REPO_ONLINE: Family = Family::gauge("github_runner_repo_online", "As ci_runner_online.");
const REPO_BUSY: Family = Family::gauge("github_runner_repo_busy", "As ci_runner_busy.");
const ORG_ONLINE: Family = Family::gauge("github_runner_org_online", "As ci_runner_online.");
const ORG_BUSY: Family = Family::gauge("github_runner_org_busy", "As ci_runner_busy.");
const ENTERPRISE_ONLINE: Family = Family::gauge("github_runner_enterprise_online", "As ci_runner_online.");
const ENTERPRISE_BUSY: Family = Family::gauge("github_runner_enterprise_busy", "As ci_runner_busy.");
const REPO_STATUS: Family = Family::gauge("github_runner_status", "As ci_runner_online.");
const ORG_STATUS: Family = Family::gauge("github_runner_organization_status", "As ci_runner_online.");

/// What is written of one runner.
pub(super) struct Line {
    /// The labels that all its series have.
    labels: String,
    info: String,
    state: State,
    busy: Option<bool>,
    paused: Option<bool>,
    uptimes: Vec<Option<f64>>,
    changed: f64,
    transitions: TransitionCounts,
    alias: Option<Alias>,
}

/// What is written of it under the names of other exporters.
struct Alias {
    kind: Kind,
    labels: String,
    /// Those of the exporter that counts busy runners apart.
    by_busy: String,
}

/// The metrics of which each runner has series, in the order in which they are written.
pub(super) const FAMILIES: [fn(&[Line], &mut String, bool); 8] = [
    |lines, out, begins| each(lines, out, begins, &ONLINE, |line| Some(u8::from(line.state == State::Online))),
    |lines, out, begins| each(lines, out, begins, &BUSY, |line| line.busy.map(u8::from)),
    |lines, out, begins| each(lines, out, begins, &PAUSED, |line| line.paused.map(u8::from)),
    |lines, out, begins| each(lines, out, begins, &UNKNOWN, |line| Some(u8::from(line.state == State::Unknown))),
    uptimes,
    |lines, out, begins| each(lines, out, begins, &CHANGED, |line| Some(line.changed)),
    transitions,
    |lines, out, begins| {
        begin(out, begins, &INFO);
        for line in lines {
            INFO.series(out, &line.info, 1);
        }
    },
];

impl Line {
    pub(super) fn of(sample: &Sample, exporter_names: bool) -> Self {
        let Sample { glance, place, transitions } = sample;
        let (runner, seen) = (&glance.runner, &glance.runner.known.seen);
        let (id, os) = (runner.id.to_string(), seen.os.as_deref().unwrap_or_default());
        let common = labels(&[
            ("provider", runner.provider.as_str()),
            ("source", runner.source.as_str()),
            ("scope", place.kind.map_or("owned", Kind::as_str)),
            ("id", &id),
            ("name", &seen.name),
            ("os", os),
        ]);
        let more = labels(&[
            ("external_id", seen.external_id.as_str()),
            ("labels", &seen.labels.join(",")),
            ("kind", seen.kind.map_or("", Kind::as_str)),
            ("version", seen.version.as_deref().unwrap_or_default()),
            ("ephemeral", seen.ephemeral.map_or("", |ephemeral| if ephemeral { "true" } else { "false" })),
        ]);
        let state = runner.known.entry.state;
        let alias = (exporter_names && runner.provider == Provider::GitHub).then(|| Alias::of(sample, place, state));
        Self {
            info: format!("{common},{more}"),
            labels: common,
            state,
            busy: seen.busy,
            paused: seen.paused,
            uptimes: glance.uptimes.iter().map(|uptime| uptime.uptime).collect(),
            changed: runner.known.entry.at.as_duration().as_secs_f64(),
            transitions: *transitions,
            alias: alias.flatten(),
        }
    }
}

impl Alias {
    fn of(sample: &Sample, place: &Place, state: State) -> Option<Self> {
        let seen = &sample.glance.runner.known.seen;
        let (id, os) = (seen.external_id.as_str(), seen.os.as_deref().unwrap_or_default());
        // These exporters know two states.
        let status = if state == State::Online { "online" } else { "offline" };
        let kind = place.kind?;
        let own = labels(&[("owner", &place.owner), ("id", id), ("name", &seen.name), ("os", os), ("status", status)]);
        let place_label = if kind == Kind::Repository { "repo" } else { "organization" };
        let busy = if seen.busy == Some(true) { "true" } else { "false" };
        let by_busy =
            labels(&[(place_label, &place.owner), ("os", os), ("name", &seen.name), ("id", id), ("busy", busy)]);
        Some(Self { kind, labels: own, by_busy })
    }
}

fn begin(out: &mut String, begins: bool, family: &Family) {
    if begins {
        family.begin(out);
    }
}

fn each<V: std::fmt::Display>(
    lines: &[Line],
    out: &mut String,
    begins: bool,
    family: &Family,
    value: impl Fn(&Line) -> Option<V>,
) {
    begin(out, begins, family);
    for line in lines {
        if let Some(value) = value(line) {
            family.series(out, &line.labels, value);
        }
    }
}

fn uptimes(lines: &[Line], out: &mut String, begins: bool) {
    begin(out, begins, &UPTIME);
    for line in lines {
        for ((window, _), uptime) in WINDOWS.iter().zip(&line.uptimes) {
            if let Some(uptime) = uptime {
                UPTIME.series(out, &format!("{},window=\"{window}\"", line.labels), uptime);
            }
        }
    }
}

fn transitions(lines: &[Line], out: &mut String, begins: bool) {
    begin(out, begins, &TURNS);
    for line in lines {
        let TransitionCounts { online, offline, unknown } = line.transitions;
        for (to, count) in [("online", online), ("offline", offline), ("unknown", unknown)] {
            TURNS.series(out, &format!("{},to=\"{to}\"", line.labels), count);
        }
    }
}

/// Writes the runners of GitHub under the names of other exporters. Two lists may have the same runner, so each is written
/// once.
pub(super) fn write_aliases(lines: &[Line], out: &mut String) {
    let online: fn(&Line) -> Option<u8> = |line| Some(u8::from(line.state == State::Online));
    let busy: fn(&Line) -> Option<u8> = |line| line.busy.map(u8::from);
    let own: fn(&Alias) -> &str = |alias| &alias.labels;
    let by_busy: fn(&Alias) -> &str = |alias| &alias.by_busy;
    let families = [
        (REPO_ONLINE, Kind::Repository, online, own),
        (REPO_BUSY, Kind::Repository, busy, own),
        (ORG_ONLINE, Kind::Organization, online, own),
        (ORG_BUSY, Kind::Organization, busy, own),
        (ENTERPRISE_ONLINE, Kind::Enterprise, online, own),
        (ENTERPRISE_BUSY, Kind::Enterprise, busy, own),
        (REPO_STATUS, Kind::Repository, online, by_busy),
        (ORG_STATUS, Kind::Organization, online, by_busy),
    ];
    for (family, kind, value, labels) in families {
        let mut written = BTreeSet::new();
        for line in lines {
            let Some(alias) = line.alias.as_ref().filter(|alias| alias.kind == kind) else { continue };
            let Some(value) = value(line) else { continue };
            let labels = labels(alias);
            if written.is_empty() {
                family.begin(out);
            }
            if written.insert(labels) {
                family.series(out, labels, value);
            }
        }
    }
}

const UP: Family = Family::gauge("ci_runner_source_up", "Whether the last poll of the list told of all its runners.");
const SUCCESS: Family = Family::gauge("ci_runner_source_last_success_timestamp_seconds", "When a poll last did.");
const REMAINING: Family =
    Family::gauge("ci_runner_source_ratelimit_remaining", "Requests that its service still takes in this period.");
const LIMIT: Family = Family::gauge("ci_runner_source_ratelimit_limit", "Requests that it takes in a period.");
const RESET: Family =
    Family::gauge("ci_runner_source_ratelimit_reset_timestamp_seconds", "When the next period begins.");
const REQUESTS: Family = Family::counter(
    "ci_runner_source_requests_total",
    "Requests to the service since ci-bridge was started, by the status of the answer.",
);
const POLLS: Family =
    Family::counter("ci_runner_source_polls_total", "Polls since ci-bridge was started, by what they came to.");

/// Writes the lists that are watched.
pub(super) fn write_sources(sources: &[SourceStatus], out: &mut String) {
    let watched: Vec<_> = sources.iter().filter(|source| source.watched).collect();
    let common =
        |source: &SourceStatus| labels(&[("provider", source.provider.as_str()), ("source", source.name.as_str())]);
    let each = |out: &mut String, family: Family, value: &dyn Fn(&SourceStatus) -> Option<String>| {
        family.begin(out);
        for source in &watched {
            if let Some(value) = value(source) {
                family.series(out, &common(source), value);
            }
        }
    };
    let is_up = |source: &SourceStatus| {
        source.record.as_ref().is_some_and(|record| record.failures == 0 && record.heard.is_some())
    };
    let seconds = |at: Timestamp| at.as_duration().as_secs_f64().to_string();
    each(out, UP, &|source| Some(u8::from(is_up(source)).to_string()));
    each(out, SUCCESS, &|source| Some(seconds(source.record.as_ref()?.heard?.at)));
    each(out, REMAINING, &|source| Some(source.polled.quota?.left.to_string()));
    each(out, LIMIT, &|source| Some(source.polled.quota?.limit.to_string()));
    each(out, RESET, &|source| Some(seconds(source.polled.quota?.reset_at)));
    REQUESTS.begin(out);
    for source in &watched {
        for (status, count) in &source.polled.requests {
            let code = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
            REQUESTS.series(out, &format!("{},code=\"{code}\"", common(source)), count);
        }
    }
    POLLS.begin(out);
    for source in &watched {
        for (result, count) in &source.polled.results {
            POLLS.series(out, &format!("{},result=\"{result}\"", common(source)), count);
        }
    }
}

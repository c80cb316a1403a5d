//! The one place that gives an error its status.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode};
use jiff::Timestamp;

use super::alerts::NotGivenUp;
use super::jobs::RUN_ID;
use super::manage::NoSuchSource;
use super::metrics::TooManyScrapes;
use super::problem::Problem;
use super::retry::NotRetried;
use super::runners::NoSuchRunner;
use super::runs::RunFailed;
use super::shape;
use super::stream::TooManyStreams;
use crate::audit;
use crate::auth::Denial;
use crate::fleet::{self, TurnError};
use crate::inputs;
use crate::jobs;
use crate::policy::{NameError, NotAllowed};
use crate::runners::PollError;
use crate::runners::gitlab::manage::ManageError;
use crate::systemd::{self, StartError};
use crate::telemetry::Chain;

/// A pause after which systemd, D-Bus or a start limit may have recovered.
const MOMENT: Duration = Duration::from_secs(1);
/// A pause after which a follower may have gone.
const STREAM: Duration = Duration::from_secs(5);
/// A pause after which a run that waited may have begun.
const QUEUE: Duration = Duration::from_secs(10);
/// systemd's default for `StartLimitIntervalSec=` (`systemd-system.conf(5)`).
const START_LIMIT: Duration = Duration::from_secs(10);

impl From<Denial> for Problem {
    fn from(denial: Denial) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, denial.code(), denial.to_string())
    }
}

impl From<TooManyStreams> for Problem {
    fn from(_: TooManyStreams) -> Self {
        let detail = "too many logs are followed at once; try again later, or raise `limits.max_streams`";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", detail).retry_after(STREAM)
    }
}

impl From<TooManyScrapes> for Problem {
    fn from(_: TooManyScrapes) -> Self {
        let detail = "the metrics are being sent to as many as may have them at once; try again in a moment";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_scrapes", detail).retry_after(MOMENT)
    }
}

impl From<NameError> for Problem {
    fn from(error: NameError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_job_name", error.to_string())
    }
}

impl From<NotAllowed> for Problem {
    fn from(_: NotAllowed) -> Self {
        jobs::Error::NoSuchJob.into()
    }
}

impl From<NotRetried> for Problem {
    fn from(error: NotRetried) -> Self {
        match error {
            NotRetried::Malformed => Self::new(
                StatusCode::BAD_REQUEST,
                "invalid_idempotency_key",
                "send one Idempotency-Key, of 1 to 255 visible ASCII characters without quotes and backslashes, such as a \
                 UUID",
            ),
            NotRetried::Mismatch => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "this Idempotency-Key stands for another request of the last 24 hours; choose a new one",
            ),
            NotRetried::InProgress => Self::new(
                StatusCode::CONFLICT,
                "request_in_progress",
                "the first request with this Idempotency-Key is still being carried out; try again in a moment",
            )
            .retry_after(MOMENT),
        }
    }
}

impl From<RunFailed> for Problem {
    fn from(RunFailed(run): RunFailed) -> Self {
        let result = run.ended().map(|ended| ended.result.as_str()).unwrap_or_default();
        let detail = format!("run {} of {} did not succeed: {result}", run.id, run.job.name());
        let problem = Self::new(StatusCode::FAILED_DEPENDENCY, "run_failed", detail);
        // The same members as of a run that did.
        let members = match serde_json::json!(shape::Run::of(&run)) {
            serde_json::Value::Object(members) => members,
            _ => serde_json::Map::new(),
        };
        let problem = members.into_iter().fold(problem, |problem, (name, value)| problem.with(&name, value));
        with_run_id(problem, &run)
    }
}

fn with_run_id(problem: Problem, run: &jobs::Run) -> Problem {
    match HeaderValue::from_str(&run.id.to_string()) {
        Ok(id) => problem.header(RUN_ID, id),
        Err(_) => problem,
    }
}

impl From<jobs::NotACursor> for Problem {
    fn from(error: jobs::NotACursor) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_cursor", error.to_string())
    }
}

impl From<jobs::Error> for Problem {
    fn from(error: jobs::Error) -> Self {
        use jobs::Error;
        let detail = error.to_string();
        match error {
            Error::NoSuchJob => Self::new(
                StatusCode::NOT_FOUND,
                "no_such_job",
                "there is no such job, or this token or this bridge does not allow it; GET /api/jobs lists those there \
                 are",
            ),
            Error::NoSuchRun => Self::new(StatusCode::NOT_FOUND, "no_such_run", detail),
            Error::Busy(run) => {
                let member = serde_json::json!(shape::Run::of(&run));
                let detail = format!("{detail}; wait for run {}, stop it, or join it with ?if_busy=join", run.id);
                with_run_id(Self::new(StatusCode::CONFLICT, "busy", detail).with("run", member), &run)
            }
            Error::TooManyInstances(pause) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_instances", detail).retry_after(pause)
            }
            Error::Input(error) => error.into(),
            Error::Start(error) => error.into(),
            Error::Systemd(error) => error.into(),
            Error::Journal(ref cause) => {
                log::error!("{}", Chain(cause));
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "journal_unavailable", detail)
            }
            Error::QueueFull(_) => Self::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", detail).retry_after(QUEUE),
            Error::History(ref cause) => history(cause, detail),
            Error::Internal(ref cause) => internal(cause),
        }
    }
}

impl From<inputs::Error> for Problem {
    fn from(error: inputs::Error) -> Self {
        use inputs::Error;
        let detail = error.to_string();
        let (problem, input) = match error {
            Error::Unknown { name, .. } => (Self::new(StatusCode::UNPROCESSABLE_ENTITY, "input_unknown", detail), name),
            Error::Missing(name) => {
                (Self::new(StatusCode::UNPROCESSABLE_ENTITY, "input_missing", detail), name.to_string())
            }
            Error::Invalid { name, .. } | Error::LongJob(name) => {
                (Self::new(StatusCode::UNPROCESSABLE_ENTITY, "input_invalid", detail), name.to_string())
            }
        };
        problem.with("input", serde_json::json!(input))
    }
}

impl From<NoSuchRunner> for Problem {
    fn from(_: NoSuchRunner) -> Self {
        let detail = "there is no such runner; GET /api/runners lists those there are";
        Self::new(StatusCode::NOT_FOUND, "no_such_runner", detail)
    }
}

impl From<NotGivenUp> for Problem {
    fn from(_: NotGivenUp) -> Self {
        let detail = "no message of this id was given up; GET /api/alerts?state=dead lists those that were";
        Self::new(StatusCode::NOT_FOUND, "no_such_alert", detail)
    }
}

impl From<fleet::AskError> for Problem {
    fn from(error: fleet::AskError) -> Self {
        history(&error, "the history cannot be read; the log of ci-bridge says why".to_owned())
    }
}

impl From<audit::Error> for Problem {
    fn from(error: audit::Error) -> Self {
        history(&error, "the history cannot be read; the log of ci-bridge says why".to_owned())
    }
}

impl From<StartError> for Problem {
    fn from(error: StartError) -> Self {
        let conflict = |code| Self::new(StatusCode::CONFLICT, code, error.to_string());
        match error {
            StartError::NotFound => jobs::Error::NoSuchJob.into(),
            StartError::Busy => conflict("busy"),
            StartError::Alias => conflict("unit_alias"),
            StartError::Masked => conflict("unit_masked"),
            StartError::NotByHand => conflict("start_refused"),
            StartError::Unsafe => conflict("unit_unsafe"),
            StartError::Condition => conflict("condition_failed"),
            StartError::Assertion => conflict("assertion_failed"),
            StartError::Dependency => conflict("dependency_failed"),
            StartError::Canceled => conflict("start_canceled"),
            StartError::Broken(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unit_broken", error.to_string()),
            StartError::Failed(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "start_failed", error.to_string()),
            StartError::StartLimit => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "start_limit_hit", error.to_string()).retry_after(START_LIMIT)
            }
            // The run is queued then, and no caller is told of it.
            StartError::Uncertain => systemd::Error::Unreachable(None).into(),
            StartError::Systemd(error) => error.into(),
        }
    }
}

impl From<systemd::Error> for Problem {
    fn from(error: systemd::Error) -> Self {
        use systemd::Error;
        let unavailable =
            |code| Self::new(StatusCode::SERVICE_UNAVAILABLE, code, error.to_string()).retry_after(MOMENT);
        match error {
            Error::Unreachable(_) => unavailable("systemd_unreachable"),
            Error::ShuttingDown => unavailable("shutting_down"),
            Error::NotAuthorized(ref cause) => {
                log::error!("systemd refused the bridge: {}", Chain(cause));
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_authorized", error.to_string())
            }
            Error::NoSuchUnit => jobs::Error::NoSuchJob.into(),
            Error::Masked => StartError::Masked.into(),
            Error::NotByHand(_) => Self::new(StatusCode::CONFLICT, "start_refused", error.to_string()),
            Error::Broken(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unit_broken", error.to_string()),
            Error::Conflict(_) => {
                Self::new(StatusCode::CONFLICT, "systemd_job_conflict", error.to_string()).retry_after(MOMENT)
            }
            Error::Protocol(ref cause) => internal(cause),
        }
    }
}

impl From<NoSuchSource> for Problem {
    fn from(_: NoSuchSource) -> Self {
        let detail = "there is no such list of runners; GET /api/sources has those there are";
        Self::new(StatusCode::NOT_FOUND, "no_such_source", detail)
    }
}

impl From<TurnError> for Problem {
    fn from(error: TurnError) -> Self {
        let detail = error.to_string();
        match error {
            TurnError::NotWatched(_) => Self::new(StatusCode::NOT_FOUND, "no_such_source", detail),
            TurnError::NotGitLab(_) => Self::new(StatusCode::CONFLICT, "not_gitlab", detail),
            TurnError::Busy(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "gitlab_busy", detail).retry_after(STREAM),
        }
    }
}

/// What GitLab says about its own token or its own rights is never told by the same status: a caller would take it for
/// something about the token of the bridge.
impl From<ManageError> for Problem {
    fn from(error: ManageError) -> Self {
        let detail = error.to_string();
        match error {
            ManageError::NoChange => Self::new(StatusCode::BAD_REQUEST, "invalid_body", detail),
            ManageError::NotFound => Self::new(StatusCode::NOT_FOUND, "gitlab_not_found", detail),
            ManageError::Refused { status, .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "gitlab_refused", detail)
                    .with("gitlab_status", status.into())
            }
            ManageError::RunnerToken => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "runner_token_unknown", detail),
            ManageError::Retired => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "registration_retired", detail),
            ManageError::Failed(PollError::RateLimited { until }) => {
                let pause = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "gitlab_rate_limited", detail).retry_after(pause)
            }
            ManageError::Failed(cause) => {
                log::warn!("GitLab was asked in vain: {cause}");
                Self::new(StatusCode::BAD_GATEWAY, "gitlab_failed", outside(&cause)).with("reason", cause.code().into())
            }
            ManageError::Uncertain(cause) => {
                log::warn!("a change at GitLab may have been made, or not: {cause}");
                let detail = format!(
                    "the change may have been made all the same, so look before you repeat it: {}",
                    outside(&cause)
                );
                Self::new(StatusCode::BAD_GATEWAY, "gitlab_uncertain", detail).with("reason", cause.code().into())
            }
        }
    }
}

/// Why GitLab gave no answer of use, without the paths and addresses that only the log has.
fn outside(cause: &PollError) -> String {
    match cause {
        PollError::Credential(_) => {
            "the token of the list cannot be used; the bridge's own log has the reason".to_owned()
        }
        PollError::Unreachable(_) => "GitLab cannot be reached; the bridge's own log has the reason".to_owned(),
        cause => cause.to_string(),
    }
}

fn history(cause: &(dyn std::error::Error + 'static), detail: String) -> Problem {
    log::error!("{}", Chain(cause));
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "history_unavailable", detail).retry_after(MOMENT)
}

/// What went wrong inside stays inside; the log has it.
fn internal(cause: &(dyn std::error::Error + 'static)) -> Problem {
    log::error!("{}", Chain(cause));
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the bridge failed; its own log has the reason")
}

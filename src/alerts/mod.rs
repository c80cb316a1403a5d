//! Alerts: what happened is told to those who want to know, at least once each.
//!
//! [`Alerts::deliveries`] makes of an event what is to be sent, when it happens: so it is the same however often it is
//! sent, and goes to the disk together with what it tells of. A [`Courier`] for each target sends it.
//!
//! Everything that comes from outside (names, labels, words of services) is made harmless for the format that it goes
//! into. Absent: what happened, and when somebody is told again; and any word about the address of a target, because
//! who knows it can often write to it.

mod courier;
mod event;
mod format;
mod guard;
mod signature;
mod teller;
mod template;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use url::Url;

pub use self::courier::{Courier, Round};
pub use self::event::{Event, JobEvent, Part, SourceEvent, StorageEvent, Told, WatchedSource};
pub use self::teller::Teller;

use self::format::Form;
use self::signature::Secret;
use crate::config::{Address, Alert, JobPattern, alert_target};
use crate::runners::SourceName;
use crate::store::Delivery;

/// Alerts can't be sent as they are configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that an alert needs can't be read.
    #[error("the alert `{alert}` needs {}, which cannot be read", path.display())]
    Read {
        /// The name of the alert.
        alert: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An address that is none.
    #[error("the alert `{alert}` has no usable address in {}: {reason}", path.display())]
    Address {
        /// The name of the alert.
        alert: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A secret that is none.
    #[error("the alert `{alert}` has no usable secret in {}: {reason}", path.display())]
    Secret {
        /// The name of the alert.
        alert: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A template that can't be used.
    #[error("the alert `{alert}` has a template with a mistake: {}", path.display())]
    Template {
        /// The name of the alert.
        alert: String,
        /// The file.
        path: PathBuf,
        /// The mistake.
        source: minijinja::Error,
    },
    /// No connections can be made at all.
    #[error("cannot prepare connections for alerts")]
    Client(#[source] reqwest::Error),
}

/// A target, with what it takes to write to it.
struct Target {
    alert: Alert,
    url: Url,
    form: Form,
    secret: Option<Secret>,
    sent: Counts,
}

/// What came of attempts to send something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// It was taken.
    pub taken: u64,
    /// It was not, and is tried again.
    pub failed: u64,
    /// It was not, and was given up.
    pub dead: u64,
}

/// The same while it is counted.
#[derive(Default)]
struct Counts {
    taken: AtomicU64,
    failed: AtomicU64,
    dead: AtomicU64,
}

/// All alerts that are configured.
#[derive(Default)]
pub struct Alerts {
    targets: Vec<std::sync::Arc<Target>>,
}

impl Alerts {
    /// Reads what the alerts need: addresses, secrets and templates.
    ///
    /// # Errors
    /// [`Error`] for the first that can't be used.
    pub fn load(alerts: &[Alert]) -> Result<Self, Error> {
        let targets = alerts.iter().map(|alert| {
            let secret = alert.secret_file.as_deref().map(|path| Secret::read(alert, path)).transpose()?;
            let (url, form, alert, sent) = (address(alert)?, Form::load(alert)?, alert.clone(), Counts::default());
            Ok(Target { alert, url, form, secret, sent }.into())
        });
        Ok(Self { targets: targets.collect::<Result<_, Error>>()? })
    }

    /// The names of the alerts.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.targets.iter().map(|target| target.alert.name.as_str()).collect()
    }

    /// What came of all attempts so far.
    #[must_use]
    pub fn sent(&self) -> Sent {
        let sum = |count: fn(&Counts) -> &AtomicU64| {
            self.targets.iter().map(|target| count(&target.sent).load(Ordering::Relaxed)).sum()
        };
        Sent {
            taken: sum(|counts| &counts.taken),
            failed: sum(|counts| &counts.failed),
            dead: sum(|counts| &counts.dead),
        }
    }

    /// What is to be sent because of an event, to all who want to know.
    #[must_use]
    pub fn deliveries(&self, event: &Event) -> Vec<Delivery> {
        let wanting = self.targets.iter().filter(|target| target.wants(event));
        wanting.map(|target| target.delivery(event)).collect()
    }
}

fn address(alert: &Alert) -> Result<Url, Error> {
    let path = match &alert.address {
        Address::Url(url) => return Ok(url.clone()),
        Address::File(path) => path,
    };
    let failed = |source| Error::Read { alert: alert.name.clone(), path: path.clone(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let wrong = |reason| Error::Address { alert: alert.name.clone(), path: path.clone(), reason };
    alert_target(text.trim(), &alert.format, alert.allow_private).map_err(wrong)
}

impl Target {
    fn wants(&self, event: &Event) -> bool {
        let Alert { events, jobs, sources, .. } = &self.alert;
        let of_job = |job: &str| jobs.iter().any(|pattern: &JobPattern| pattern.matches(job));
        let of_source = |source: &SourceName| sources.as_ref().is_none_or(|sources| sources.contains(source));
        let told = &event.told;
        events.contains(&told.event()) && told.job().is_none_or(of_job) && told.source().is_none_or(of_source)
    }

    fn delivery(&self, event: &Event) -> Delivery {
        let rendered = self.form.render(event);
        if let Some(fault) = rendered.fault {
            log::error!("the alert `{}` sends plain JSON, because its template failed: {fault}", self.alert.name);
        }
        Delivery {
            event: event.id,
            alert: self.alert.name.clone(),
            kind: event.told.event().kind().to_owned(),
            subject: event.told.subject(),
            at: event.at,
            content_type: rendered.content_type,
            body: rendered.body,
        }
    }
}

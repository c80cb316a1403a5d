//! Talks to systemd over D-Bus: starts and stops allowed units, and mirrors their state.
//!
//! Subscribes first, then acts. There is one connection, and one task that takes its messages in order. Job modes are
//! fixed here (`fail` to start, `replace` to stop); no request chooses one. Absent on purpose: transient units, unit
//! properties to set, signals to send, and any unit that is not an [`AllowedJob`].

mod error;
mod job_ends;
mod link;
mod log_settings;
mod mirror;
mod path;
mod start;
mod unit;
mod usage;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use zbus::Variant;

use self::link::Link;
use self::start::Pins;
use crate::invocation::InvocationId;
use crate::policy::{AllowedJob, JobName, Policy};

pub use self::error::Error;
pub use self::link::{BusAddress, Health};
pub use self::log_settings::LogSettings;
pub use self::mirror::Observer;
pub use self::start::{StartError, Stopped};
pub use self::unit::{ActiveState, LoadState, UnitState};
pub use self::usage::Usage;

/// How long the list of unit files is good for; a file that appears without `daemon-reload` is seen after this time.
const CATALOGUE_AGE: Duration = Duration::from_secs(1);

/// A unit file of an allowed unit.
#[derive(Debug, Clone)]
struct UnitFile {
    /// Whether the name is only another name of a unit.
    alias: bool,
    description: Option<String>,
}

type Catalogue = Arc<BTreeMap<JobName, UnitFile>>;

/// A job that exists.
#[derive(Debug, Clone)]
pub struct ListedJob {
    /// Its name; a template's ends in `@`.
    pub name: JobName,
    /// `Description=` of its unit.
    pub description: Option<String>,
    /// Its unit's state; `None` if systemd does not have it in memory, so that it is inactive.
    pub state: Option<Arc<UnitState>>,
}

struct CatalogueRead {
    at: Instant,
    change: u64,
    files: Result<Catalogue, Error>,
}

/// The bridge's view of systemd; cheap to clone.
#[derive(Clone)]
pub struct Systemd {
    link: Arc<Link>,
    catalogue: Arc<tokio::sync::Mutex<Option<CatalogueRead>>>,
    pins: Arc<Mutex<Pins>>,
}

impl Systemd {
    /// A view of the units that `policy` allows. Nothing happens until [`Systemd::run`] is polled.
    ///
    /// `observer` is told each change of an allowed unit, in order, before anybody else can see it; it must not block.
    /// While systemd is away, who needs it waits up to `absence` for it to come back, and only then gets
    /// [`Error::Unreachable`].
    #[must_use]
    pub fn new(address: BusAddress, policy: Policy, observer: Observer, absence: Duration) -> Self {
        let link = Arc::new(Link::new(address, policy, observer, absence));
        Self { link, catalogue: Arc::default(), pins: Arc::default() }
    }

    /// Connects, reads all units, follows their changes and reconnects, until `stop` is cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        let mut connection = self.link.health();
        let forget_pins = async {
            // References die with the connection that holds them.
            while connection.changed().await.is_ok() {
                self.pins.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
        };
        tokio::select! {
            () = self.link.run(stop) => {}
            () = forget_pins => {}
        }
    }

    /// Whether systemd can be reached and the mirror is complete.
    #[must_use]
    pub fn health(&self) -> Health {
        if self.link.is_ready() { Health::Ready } else { Health::Connecting }
    }

    /// Returns when the mirror is complete for the first time.
    pub async fn ready(&self) {
        // The sender lives as long as the link, so waiting cannot fail.
        let _ = self.link.health().wait_for(Option::is_some).await;
    }

    /// The state of a job's unit, from memory; `None` if there is no such unit, or only as an alias of another.
    ///
    /// Costs systemd nothing, but for one call a second at the most about units that it does not have in memory.
    ///
    /// # Errors
    /// [`Error::Unreachable`] while there is no connection.
    pub async fn state(&self, job: &AllowedJob) -> Result<Option<Arc<UnitState>>, Error> {
        self.link.reached().await?;
        if let Some(state) = self.link.mirror.get(job.unit()).filter(|state| state.in_memory) {
            let exists = state.load != LoadState::NotFound && state.id == job.unit();
            return Ok(exists.then_some(state));
        }
        // The mirror has every allowed unit that is in systemd's memory, so this one is inactive.
        let files = self.files().await?;
        let template = job.name().template();
        let file = files.get(job.name()).or_else(|| files.get(&template?));
        Ok(file.filter(|file| !file.alias).map(|_| Arc::new(UnitState::unknown(job.unit()))))
    }

    /// All allowed jobs that exist: those with a unit file, and instances that systemd has in memory.
    ///
    /// # Errors
    /// [`Error::Unreachable`] while there is no connection.
    pub async fn jobs(&self) -> Result<Vec<ListedJob>, Error> {
        let files = self.files().await?;
        let mut jobs: BTreeMap<JobName, ListedJob> = files
            .iter()
            .filter(|(_, file)| !file.alias)
            .map(|(name, file)| {
                let job = ListedJob { name: name.clone(), description: file.description.clone(), state: None };
                (name.clone(), job)
            })
            .collect();
        for unit in self.link.mirror.names() {
            let Some(state) = self.link.mirror.get(&unit).filter(|state| state.in_memory) else { continue };
            let Ok(name) = JobName::from_unit(&unit) else { continue };
            if state.load != LoadState::NotFound && state.id == unit {
                let description = Some(state.description.clone());
                jobs.insert(name.clone(), ListedJob { name, description, state: Some(state) });
            }
        }
        Ok(jobs.into_values().collect())
    }

    /// What the settings of the job's unit do to its lines. Loads the unit if systemd does not have it in memory.
    ///
    /// # Errors
    /// [`Error`] if systemd refuses or cannot be reached.
    pub async fn log_settings(&self, job: &AllowedJob) -> Result<LogSettings, Error> {
        let reply = self.link.properties(job.unit()).await?;
        let body = reply.body();
        let properties: HashMap<&str, Variant<'_>> = body.deserialize().map_err(Error::Protocol)?;
        Ok(LogSettings::from_properties(&properties))
    }

    /// The `LoadCredential=` lines of the job's unit, as pairs of a name and a path; `None` if systemd knows no such setting,
    /// as before version 247. Loads the unit if systemd does not have it in memory.
    ///
    /// # Errors
    /// [`Error`] if systemd refuses or cannot be reached.
    pub async fn credentials(&self, job: &AllowedJob) -> Result<Option<Vec<(String, String)>>, Error> {
        let reply = self.link.properties(job.unit()).await?;
        let body = reply.body();
        let properties: HashMap<&str, Variant<'_>> = body.deserialize().map_err(Error::Protocol)?;
        Ok(properties.get("LoadCredential").map(pairs))
    }

    /// What the newest run of the job's unit has used; `None` if systemd no longer has it in memory or it is not that run.
    ///
    /// # Errors
    /// [`Error`] if systemd cannot be reached.
    pub async fn usage(&self, job: &AllowedJob, invocation: InvocationId) -> Result<Option<Usage>, Error> {
        // To ask would make systemd load the unit.
        if self.link.mirror.get(job.unit()).is_none_or(|state| !state.in_memory) {
            return Ok(None);
        }
        let reply = self.link.properties(job.unit()).await?;
        let body = reply.body();
        let properties: HashMap<&str, Variant<'_>> = body.deserialize().map_err(Error::Protocol)?;
        let mut state = UnitState::unknown(job.unit());
        state.apply(&properties);
        Ok((state.invocation == Some(invocation)).then(|| Usage::from_properties(&properties)))
    }

    async fn files(&self) -> Result<Catalogue, Error> {
        let mut catalogue = self.catalogue.lock().await;
        let change = *self.link.files_changed.borrow();
        if let Some(read) = catalogue.as_ref()
            && read.change == change
            && read.at.elapsed() < CATALOGUE_AGE
        {
            return read.files.clone();
        }
        let files = self.read_files().await;
        // A failure is kept as well: who has waited for it behind the lock must not wait as long again.
        *catalogue = Some(CatalogueRead { at: Instant::now(), change, files: files.clone() });
        files
    }

    async fn read_files(&self) -> Result<Catalogue, Error> {
        let body = (Vec::<&str>::new(), self.link.patterns());
        let reply = self.link.query("ListUnitFilesByPatterns", &body).await?;
        let listed: Vec<(String, String)> = reply.body().deserialize().map_err(Error::Protocol)?;
        let mut files = BTreeMap::new();
        for (path, enablement) in listed {
            let unit = path.rsplit('/').next().unwrap_or_default();
            if let Ok(name) = JobName::from_unit(unit)
                && self.link.is_allowed_job(&name)
            {
                let description = describe(&path).await;
                files.insert(name, UnitFile { alias: enablement == "alias", description });
            }
        }
        Ok(Arc::new(files))
    }
}

/// The texts of an array of pairs.
fn pairs(value: &Variant<'_>) -> Vec<(String, String)> {
    let Variant::Array(array) = value else { return Vec::new() };
    let pair = |element: &Variant<'_>| match element {
        Variant::Structure(fields) => match fields.fields() {
            [Variant::Str(first), Variant::Str(second)] => Some((first.to_string(), second.to_string())),
            _ => None,
        },
        _ => None,
    };
    array.inner().iter().filter_map(pair).collect()
}

/// `Description=` of a unit file, as far as it can be told without systemd: the last assignment, specifiers as they are.
async fn describe(path: &str) -> Option<String> {
    let text = tokio::fs::read_to_string(path).await.ok()?;
    let assignment = text.lines().rev().find_map(|line| line.trim().strip_prefix("Description="))?;
    Some(assignment.trim().to_owned())
}

//! The fleet in a running bridge: every source is polled, every alert is told, until the bridge ends.
//!
//! The history may be opened late. Until it is, nothing is polled and nothing told: what can't be recorded has not happened.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::counts::Counts;
use super::manage::Managed;
use super::{Watch, Watched, retire_sources_but};
use crate::alerts::{Alerts, Teller};
use crate::config::{GitHubScope, GitLabScope, RunnerList, RunnerSource};
use crate::runners::poller::Trigger;
use crate::runners::{Kind, OpenError, Provider, Source, SourceName};
use crate::store::{Error, Store};
use crate::telemetry::Chain;

/// The pause between two attempts to read what is recorded of a source.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// The runners of all sources; cheap to clone.
#[derive(Clone)]
pub struct Runners(Arc<Shared>);

struct Shared {
    sources: Vec<Listed>,
    counts: Arc<Counts>,
    teller: Teller,
    store: watch::Sender<Option<Store>>,
}

/// A source that is polled, for those who ask about it or change something in it.
pub(super) struct Listed {
    name: SourceName,
    provider: Provider,
    place: Place,
    public_badges: bool,
    pub(super) trigger: Trigger,
    /// `None` if it is one of GitHub.
    pub(super) managed: Option<Managed>,
}

/// Whose runners a source lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What it is; `None` for what a GitLab shows the owner of a token.
    pub kind: Option<Kind>,
    /// Its name, such as `acme/site`; empty if it has none.
    pub owner: String,
}

impl Place {
    fn of(list: &RunnerList) -> Self {
        let (kind, owner) = match list {
            RunnerList::GitHub { scope, .. } => match scope {
                GitHubScope::Repository { owner, name } => (Some(Kind::Repository), format!("{owner}/{name}")),
                GitHubScope::Organization(name) => (Some(Kind::Organization), name.clone()),
                GitHubScope::Enterprise(name) => (Some(Kind::Enterprise), name.clone()),
            },
            RunnerList::GitLab { scope, .. } => match scope {
                GitLabScope::Instance => (Some(Kind::Instance), String::new()),
                GitLabScope::Owned => (None, String::new()),
                GitLabScope::Group(name) => (Some(Kind::Group), name.clone()),
                GitLabScope::Project(name) => (Some(Kind::Project), name.clone()),
            },
        };
        Self { kind, owner }
    }
}

/// What polls the sources of [`Runners`], and tells of what happens.
pub struct Rounds {
    runners: Runners,
    sources: Vec<Round>,
}

struct Round {
    watched: Watched,
    source: Source,
    trigger: Trigger,
}

impl Runners {
    /// The runners of these sources. Without running [`Rounds`] they are never polled.
    ///
    /// `credentials` is the directory with systemd's credentials, `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
    ///
    /// # Errors
    /// [`OpenError`] if no source can ever be read.
    pub fn new(
        sources: &[RunnerSource],
        alerts: Alerts,
        credentials: Option<&Path>,
    ) -> Result<(Self, Rounds), OpenError> {
        let rounds = sources.iter().map(|source| {
            let (watched, trigger) = (Watched::of(source), Trigger::default());
            Ok(Round { watched, source: Source::open(source, credentials)?, trigger })
        });
        let rounds = rounds.collect::<Result<Vec<_>, OpenError>>()?;
        let listed = rounds.iter().zip(sources).map(|(round, source)| round.listed(source)).collect();
        let (counts, teller, store) = (Arc::default(), Teller::new(alerts), watch::channel(None).0);
        let runners = Self(Arc::new(Shared { sources: listed, counts, teller, store }));
        Ok((runners.clone(), Rounds { runners, sources: rounds }))
    }

    /// Has everything be kept in `store` from now on.
    pub fn take_up(&self, store: Store) {
        self.0.store.send_replace(Some(store));
    }

    /// Has all sources be polled now, as far as the limits of their services allow it.
    pub fn poll_now(&self) {
        self.0.sources.iter().for_each(|listed| listed.trigger.pull());
    }

    /// The names of the sources that are polled, and their services.
    pub fn configured(&self) -> impl Iterator<Item = (&SourceName, Provider)> {
        self.0.sources.iter().map(|listed| (&listed.name, listed.provider))
    }

    pub(super) fn listed(&self, source: &SourceName) -> Option<&Listed> {
        self.0.sources.iter().find(|listed| listed.name == *source)
    }

    /// Whether the badges of the runners of a source are shown to whoever asks.
    #[must_use]
    pub fn has_public_badges(&self, source: &SourceName) -> bool {
        self.listed(source).is_some_and(|listed| listed.public_badges)
    }

    /// Whose runners a source lists, if it is polled.
    pub(super) fn place(&self, source: &SourceName) -> Option<&Place> {
        self.listed(source).map(|listed| &listed.place)
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// For whoever else has something to tell.
    #[must_use]
    pub fn teller(&self) -> &Teller {
        &self.0.teller
    }

    /// The history, as soon as it is open.
    pub(super) fn opened(&self) -> Option<Store> {
        self.0.store.borrow().clone()
    }
}

impl Rounds {
    /// Polls and tells from the moment on in which there is a store, until `stop`. The store may be closed after that.
    pub async fn run(self, stop: CancellationToken) {
        let Self { runners, sources } = self;
        let (alerts, wake) = (runners.teller().alerts(), runners.teller().wake());
        let mut opened = runners.0.store.subscribe();
        let store = match stop.run_until_cancelled(opened.wait_for(Option::is_some)).await {
            Some(Ok(store)) => store.clone(),
            Some(Err(_)) | None => None,
        };
        let Some(store) = store else { return };
        let names: Vec<_> = sources.iter().map(|round| &round.watched.name).collect();
        if let Err(error) = settle(&names, alerts, &store).await {
            log::error!("what is configured no longer is still in the history: {}", Chain(&error));
        }
        let mut tasks = JoinSet::new();
        match alerts.couriers(&store) {
            Ok(couriers) => couriers.into_iter().for_each(|courier| {
                tasks.spawn(courier.run(wake.clone(), stop.clone()));
            }),
            Err(error) => log::error!("alerts are kept and not sent: {}", Chain(&error)),
        }
        for round in sources {
            tasks.spawn(round.run(store.clone(), runners.clone(), stop.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                log::error!("a task ended badly: {error}");
            }
        }
    }
}

impl Round {
    fn listed(&self, source: &RunnerSource) -> Listed {
        let Watched { name, provider, timeout, .. } = &self.watched;
        let managed = self.source.management().map(|management| Managed::new(management, *timeout));
        Listed {
            name: name.clone(),
            provider: *provider,
            place: Place::of(&source.list),
            public_badges: source.public_badges,
            trigger: self.trigger.clone(),
            managed,
        }
    }

    async fn run(self, store: Store, runners: Runners, stop: CancellationToken) {
        let Self { watched, mut source, trigger } = self;
        let Some(watch) = stop.run_until_cancelled(open(watched, &store)).await else { return };
        let watch = watch.counting(runners.0.counts.clone());
        let (alerts, wake) = (runners.teller().alerts().clone(), runners.teller().wake().clone());
        watch.run(async move || source.poll().await, alerts, wake, trigger, stop).await;
    }
}

/// Goes on with what is recorded of a source, as soon as that can be read.
async fn open(watched: Watched, store: &Store) -> Watch {
    loop {
        match Watch::open(watched.clone(), store).await {
            Ok(watch) => return watch,
            Err(error) => log::error!("the runners of `{}` are not watched: {}", watched.name, Chain(&error)),
        }
        tokio::time::sleep(STORE_PAUSE).await;
    }
}

/// Ends what concerns sources and alerts that are no longer configured.
async fn settle(sources: &[&SourceName], alerts: &Alerts, store: &Store) -> Result<(), Error> {
    retire_sources_but(sources, store).await?;
    let buried = store.bury_deliveries_but(&alerts.names(), Timestamp::now()).await?;
    if buried > 0 {
        log::warn!("{buried} messages are never sent, because their alerts are no longer configured");
    }
    Ok(())
}

//! One connection to the bus: subscribe first, then read everything, then stay up to date.
//!
//! A single task takes every message in the order of its arrival, replies to reads included. So a state that was read
//! never overwrites a change that systemd made after it. When the connection or systemd itself goes away, the next
//! session reads everything again.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use zbus::message::Type;
use zbus::{Connection, Message, MessageStream, OwnedObjectPath, Variant};

use super::error::Error;
use super::job_ends::{JobEnds, JobResult};
use super::mirror::{Mirror, Observer};
use super::path;
use super::unit::{ActiveState, LoadState, UnitState};
use crate::policy::{JobName, Policy};

const BUS: &str = "org.freedesktop.DBus";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Nothing that systemd answers by itself takes longer than this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The same of what systemd has polkit decide. It waits 25 s for polkit (`BUS_DEFAULT_TIMEOUT` of sd-bus) and then
/// answers in any case; who gives up before does not know whether the call is still carried out.
const DECISION_TIMEOUT: Duration = Duration::from_mins(1);
/// Signals that may wait for the drain task; a burst of them must not block the replies behind it.
const QUEUE: NonZeroUsize = NonZeroUsize::new(8192).unwrap();
/// The first and the longest pause between two attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Where the bus is.
#[derive(Debug, Clone)]
pub enum BusAddress {
    /// The system bus of this machine, or the one named by `$DBUS_SYSTEM_BUS_ADDRESS`.
    System,
    /// A bus at this D-Bus address.
    At(String),
}

/// The state of the connection, as readiness tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Connected, and every allowed unit has been read.
    Ready,
    /// No connection, or the first reading is under way.
    Connecting,
}

/// What the drain task has to have read again.
enum Resync {
    All,
    Unit(String),
}

type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// A call whose reply must be taken in its place among the signals.
enum Read {
    /// All properties of a unit.
    Unit(String, Answer<Arc<UnitState>>),
    /// The allowed units that systemd has in memory.
    Loaded(Answer<Vec<String>>),
}

/// What the calls, the drain task and the reconnecting loop share.
pub(super) struct Link {
    address: BusAddress,
    policy: Policy,
    /// The longest that a call waits for a systemd that is away.
    absence: Duration,
    pub(super) mirror: Mirror,
    connection: watch::Sender<Option<Connection>>,
    reads: Mutex<HashMap<NonZeroU32, Read>>,
    job_ends: JobEnds,
    /// Counts the times that unit files may have changed.
    pub(super) files_changed: watch::Sender<u64>,
}

impl Link {
    pub(super) fn new(address: BusAddress, policy: Policy, observer: Observer, absence: Duration) -> Self {
        Self {
            address,
            policy,
            absence,
            mirror: Mirror::new(observer),
            connection: watch::Sender::new(None),
            reads: Mutex::default(),
            job_ends: JobEnds::default(),
            files_changed: watch::Sender::new(0),
        }
    }

    pub(super) fn health(&self) -> watch::Receiver<Option<Connection>> {
        self.connection.subscribe()
    }

    /// The name of the present connection, which no other has.
    pub(super) fn connection_name(&self) -> Option<String> {
        self.connection.borrow().as_ref().and_then(Connection::unique_name).map(ToString::to_string)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.connection.borrow().is_some()
    }

    /// Connects, stays connected, and returns when `stop` is cancelled.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let mut pause = RETRY.0;
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.session() => ended,
            };
            let was_ready = self.connection.send_replace(None).is_some();
            self.fail_reads();
            if was_ready {
                pause = RETRY.0;
            }
            log::warn!("the connection to systemd ended, reconnecting: {}", crate::telemetry::Chain(&ended));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// One connection from its first to its last message.
    async fn session(&self) -> Error {
        match self.try_session().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_session(&self) -> Result<std::convert::Infallible, Error> {
        let builder = match &self.address {
            BusAddress::System => zbus::connection::Builder::system(),
            BusAddress::At(address) => zbus::connection::Builder::address(address.as_str()),
        };
        let connecting = builder.max_queued(QUEUE).method_timeout(DECISION_TIMEOUT).build();
        // A bus that hangs takes the connection and then says nothing.
        let connection = in_time(connecting).await??;
        let stream = MessageStream::from(&connection);
        let (resync, resyncs) = mpsc::unbounded_channel();
        tokio::select! {
            ended = self.drain(stream, &resync) => Err(ended),
            failed = self.synchronize(&connection, resyncs) => failed,
        }
    }

    /// Subscribes and reads everything, again whenever the drain task asks for it.
    async fn synchronize(
        &self,
        connection: &Connection,
        mut resyncs: mpsc::UnboundedReceiver<Resync>,
    ) -> Result<std::convert::Infallible, Error> {
        let namespace = format!("{MANAGER_PATH}/unit");
        let rules = [
            format!("type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'"),
            format!("type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='UnitRemoved'"),
            format!("type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='Reloading'"),
            format!("type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='UnitFilesChanged'"),
            format!(
                "type='signal',sender='{SYSTEMD}',interface='{PROPERTIES}',member='PropertiesChanged',\
                 path_namespace='{namespace}'"
            ),
            format!("type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{SYSTEMD}'"),
        ];
        for rule in rules {
            in_time(connection.call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), "AddMatch", &rule)).await??;
        }
        self.subscribe(connection).await?;
        self.read_all(connection).await?;
        self.connection.send_replace(Some(connection.clone()));
        loop {
            match resyncs.recv().await {
                None => return Err(Error::Unreachable(None)),
                Some(Resync::Unit(unit)) => self.read_listed(connection, &unit).await?,
                Some(Resync::All) => {
                    self.subscribe(connection).await?;
                    self.read_all(connection).await?;
                }
            }
        }
    }

    /// Asks systemd to send signals; being subscribed already is as good.
    async fn subscribe(&self, connection: &Connection) -> Result<(), Error> {
        let subscribing = connection.call_method(Some(SYSTEMD), MANAGER_PATH, Some(MANAGER), "Subscribe", &());
        match in_time(subscribing).await? {
            Ok(_) => Ok(()),
            Err(zbus::Error::MethodError(name, ..))
                if name.as_str() == "org.freedesktop.systemd1.AlreadySubscribed" =>
            {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads every allowed unit that systemd has in memory; what it has dropped meanwhile is marked so.
    async fn read_all(&self, connection: &Connection) -> Result<(), Error> {
        let message = Message::method_call(MANAGER_PATH, "ListUnitsByPatterns")
            .destination(SYSTEMD)
            .interface(MANAGER)
            .build(&(Vec::<&str>::new(), self.patterns()))?;
        for unit in self.ask(connection, &message, Read::Loaded).await? {
            self.read_listed(connection, &unit).await?;
        }
        self.files_changed.send_modify(|count| *count += 1);
        log::info!("the states of all units have been read");
        Ok(())
    }

    /// Reads a unit that systemd has in memory; one that cannot be read is no reason to give up on the others.
    async fn read_listed(&self, connection: &Connection, unit: &str) -> Result<(), Error> {
        match self.read_on(connection, unit).await {
            Err(unreachable @ Error::Unreachable(_)) => Err(unreachable),
            Err(error) => {
                log::warn!("the state of {unit} cannot be read: {}", crate::telemetry::Chain(&error));
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    /// Takes every message, in order, until the connection ends.
    async fn drain(&self, mut stream: MessageStream, resync: &mpsc::UnboundedSender<Resync>) -> Error {
        let mut reloading = false;
        // The unique name of systemd's connection. Signals of others are not believed: match rules do not hold them off,
        // because anybody on the bus may send one to the bridge alone.
        let mut systemd = String::new();
        while let Some(message) = stream.next().await {
            let message = match message {
                Ok(message) => message,
                Err(error) => return error.into(),
            };
            let header = message.header();
            let sender = header.sender().map_or("", |sender| sender.as_str());
            match message.message_type() {
                Type::Signal if sender == BUS => {
                    if let Some(owner) = new_owner(&message) {
                        systemd = owner;
                        reloading = false;
                        let _ = resync.send(Resync::All);
                    }
                }
                Type::Signal if sender == systemd => {
                    if let Err(error) = self.take_signal(&message, resync, &mut reloading) {
                        log::warn!("a signal of systemd could not be read: {error}");
                    }
                }
                Type::MethodReturn | Type::Error => {
                    // The bridge calls nobody but the bus and systemd, and the bus passes on no reply of anybody else.
                    if sender != BUS && sender != systemd {
                        sender.clone_into(&mut systemd);
                    }
                    self.take_reply(&message);
                }
                Type::Signal | Type::MethodCall => {}
            }
        }
        Error::Unreachable(None)
    }

    fn take_signal(
        &self,
        message: &Message,
        resync: &mpsc::UnboundedSender<Resync>,
        reloading: &mut bool,
    ) -> zbus::Result<()> {
        let header = message.header();
        let body = message.body();
        match header.member().map_or("", |member| member.as_str()) {
            "PropertiesChanged" => {
                let Some(unit) = header.path().and_then(|path| path::to_unit(path.as_str())) else { return Ok(()) };
                if !self.is_allowed(&unit) {
                    return Ok(());
                }
                let (_, changed, _): (&str, HashMap<&str, Variant<'_>>, Vec<&str>) = body.deserialize()?;
                if self.mirror.get(&unit).is_none_or(|known| !known.in_memory) {
                    // A change tells only what is different; the rest of a unit that systemd has just loaded is unknown.
                    let _ = resync.send(Resync::Unit(unit.clone()));
                }
                self.mirror.update(&unit, |state| {
                    state.in_memory = true;
                    state.apply(&changed);
                });
            }
            "JobRemoved" => {
                let (_, job, _, result): (u32, OwnedObjectPath, &str, &str) = body.deserialize()?;
                self.job_ends.tell(job.as_str(), result);
            }
            // To reload, systemd drops every unit and loads it again; what is gone for good shows in the reading after.
            "UnitRemoved" if *reloading => {}
            "UnitRemoved" => {
                let (unit, _): (&str, OwnedObjectPath) = body.deserialize()?;
                self.drop_unit(unit);
            }
            "UnitFilesChanged" => self.files_changed.send_modify(|count| *count += 1),
            "Reloading" => {
                *reloading = body.deserialize()?;
                if !*reloading {
                    let _ = resync.send(Resync::All);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes the reply to a read; replies to all other calls reach their callers by themselves.
    fn take_reply(&self, message: &Message) {
        let Some(serial) = message.header().reply_serial() else { return };
        let Some(read) = self.reads.lock().unwrap_or_else(PoisonError::into_inner).remove(&serial) else { return };
        let refused = match message.message_type() {
            Type::Error => Err(Error::from(zbus::Error::from(message.clone()))),
            _ => Ok(()),
        };
        // The caller may have gone away meanwhile; the mirror has the state in any case.
        match read {
            Read::Unit(unit, answer) => {
                let _ = answer.send(refused.and_then(|()| self.take_state(&unit, message)));
            }
            Read::Loaded(answer) => {
                let _ = answer.send(refused.and_then(|()| self.take_loaded(message)));
            }
        }
    }

    /// Marks what systemd has dropped from its memory.
    fn take_loaded(&self, message: &Message) -> Result<Vec<String>, Error> {
        type Unit = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);
        let units: Vec<Unit> = message.body().deserialize().map_err(Error::Protocol)?;
        let loaded: Vec<String> = units.into_iter().map(|unit| unit.0).filter(|unit| self.is_allowed(unit)).collect();
        for unit in self.mirror.names() {
            if !loaded.contains(&unit) {
                self.drop_unit(&unit);
            }
        }
        Ok(loaded)
    }

    fn take_state(&self, unit: &str, message: &Message) -> Result<Arc<UnitState>, Error> {
        let body = message.body();
        let properties: HashMap<&str, Variant<'_>> = body.deserialize().map_err(Error::Protocol)?;
        let mut read = UnitState::unknown(unit);
        read.in_memory = true;
        read.apply(&properties);
        // A name without a unit file is no unit and is not kept.
        if read.load == LoadState::NotFound && self.mirror.get(unit).is_none() {
            return Ok(Arc::new(read));
        }
        self.mirror.update(unit, |state| *state = read.clone());
        Ok(Arc::new(read))
    }

    /// systemd has dropped `unit` from its memory, so nothing of it runs.
    fn drop_unit(&self, unit: &str) {
        if self.mirror.get(unit).is_none() {
            return;
        }
        self.mirror.update(unit, |state| {
            state.in_memory = false;
            state.active = ActiveState::Inactive;
            "dead".clone_into(&mut state.sub);
            state.has_job = false;
        });
        self.mirror.forget(unit);
    }

    /// Resolves with the result of the systemd job at the path `job`, also if it has ended already; is closed when the
    /// connection ends, or has ended.
    pub(super) fn job_end(&self, job: &str) -> oneshot::Receiver<JobResult> {
        self.job_ends.wait_for(job, || self.is_ready())
    }

    fn fail_reads(&self) {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.job_ends.forget();
    }

    /// Reads all properties of `unit`, which loads it if it has a unit file.
    pub(super) async fn read(&self, unit: &str) -> Result<Arc<UnitState>, Error> {
        self.until_reached(|connection| async move { self.read_on(&connection, unit).await }).await
    }

    async fn read_on(&self, connection: &Connection, unit: &str) -> Result<Arc<UnitState>, Error> {
        // The empty interface stands for all of them: Unit and Service in one reply.
        let message = Message::method_call(path::of_unit(unit), "GetAll")
            .destination(SYSTEMD)
            .interface(PROPERTIES)
            .build(&"")?;
        self.ask(connection, &message, |answer| Read::Unit(unit.to_owned(), answer)).await
    }

    /// Reads all that systemd knows of `unit`, past the mirror: for what no change of the unit's state touches.
    pub(super) async fn properties(&self, unit: &str) -> Result<Message, Error> {
        let get_all = |connection: Connection| async move {
            let path = path::of_unit(unit);
            Ok(in_time(connection.call_method(Some(SYSTEMD), path, Some(PROPERTIES), "GetAll", &"")).await??)
        };
        self.until_reached(get_all).await
    }

    /// Sends a call whose reply the drain task takes.
    async fn ask<T>(
        &self,
        connection: &Connection,
        message: &Message,
        read: impl FnOnce(Answer<T>) -> Read,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let serial = message.primary_header().serial_num();
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).insert(serial, read(answer));
        connection.send(message).await?;
        match in_time(answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_closed)) => Err(Error::Unreachable(None)),
            Err(error) => {
                self.reads.lock().unwrap_or_else(PoisonError::into_inner).remove(&serial);
                Err(error)
            }
        }
    }

    /// Calls a method of the manager that asks nobody else.
    pub(super) async fn query<B>(&self, method: &str, body: &B) -> Result<Message, Error>
    where
        B: serde::Serialize + zbus::DynamicType + Sync,
    {
        self.until_reached(|connection| async move { in_time(call_on(connection, method, body)).await? }).await
    }

    /// Calls a method of the manager that polkit decides, and that may as well be called twice.
    pub(super) async fn call<B>(&self, method: &str, body: &B) -> Result<Message, Error>
    where
        B: serde::Serialize + zbus::DynamicType + Sync,
    {
        self.until_reached(|connection| call_on(connection, method, body)).await
    }

    /// Calls a method of the manager once. If systemd goes away meanwhile, nobody knows whether it took the call.
    pub(super) async fn call_once<B>(&self, method: &str, body: &B) -> Result<Message, Error>
    where
        B: serde::Serialize + zbus::DynamicType + Sync,
    {
        call_on(self.connected(self.absence).await?, method, body).await
    }

    /// Returns when there is a connection, waiting for it as long as for a systemd that is away.
    pub(super) async fn reached(&self) -> Result<(), Error> {
        self.connected(self.absence).await.map(drop)
    }

    async fn connected(&self, patience: Duration) -> Result<Connection, Error> {
        let mut connection = self.health();
        let connected = tokio::time::timeout(patience, connection.wait_for(Option::is_some)).await;
        // The sender lives as long as the link.
        connected.ok().and_then(Result::ok).and_then(|connection| connection.clone()).ok_or(Error::Unreachable(None))
    }

    /// Calls until somebody answers. systemd is away for a moment whenever it executes itself anew, as it does at each of
    /// its upgrades, and what was under way then gets no reply.
    async fn until_reached<T, F>(&self, call: impl Fn(Connection) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + self.absence;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match call(self.connected(left).await?).await {
                Err(Error::Unreachable(_)) if Instant::now() + RETRY.0 < deadline => tokio::time::sleep(RETRY.0).await,
                answered => return answered,
            }
        }
    }

    /// One glob for each prefix, as `ListUnitsByPatterns` takes them. A prefix holds no character that is special in one.
    pub(super) fn patterns(&self) -> Vec<String> {
        self.policy.prefixes().iter().map(|prefix| format!("{}*.service", prefix.as_str())).collect()
    }

    fn is_allowed(&self, unit: &str) -> bool {
        JobName::from_unit(unit).is_ok_and(|name| self.is_allowed_job(&name))
    }

    pub(super) fn is_allowed_job(&self, name: &JobName) -> bool {
        self.policy.admit(name).is_ok()
    }
}

/// What comes of a call that systemd or the bus answers by itself.
async fn in_time<F: Future>(call: F) -> Result<F::Output, Error> {
    tokio::time::timeout(ANSWER_TIMEOUT, call).await.map_err(|_elapsed| Error::Unreachable(None))
}

async fn call_on<B>(connection: Connection, method: &str, body: &B) -> Result<Message, Error>
where
    B: serde::Serialize + zbus::DynamicType + Sync,
{
    Ok(connection.call_method(Some(SYSTEMD), MANAGER_PATH, Some(MANAGER), method, body).await?)
}

/// The unique name of the connection that has just taken systemd's name, if `signal` of the bus tells of one.
fn new_owner(signal: &Message) -> Option<String> {
    if signal.header().member().is_none_or(|member| member.as_str() != "NameOwnerChanged") {
        return None;
    }
    let body = signal.body();
    let (name, _, owner): (&str, &str, &str) = body.deserialize().ok()?;
    (name == SYSTEMD && !owner.is_empty()).then(|| owner.to_owned())
}

//! systemd, played on a real bus: the calls, objects and signals of `org.freedesktop.systemd1(5)` that the bridge uses.
//!
//! A test decides what the units are and what becomes of them, and can ask which calls were made. One task takes calls
//! and orders in turn, so what a test orders happens as a whole.

mod bus;
mod machine;
mod unit;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot, watch};
use zbus::message::Type;
use zbus::{Connection, Message, MessageStream, ObjectPath, Variant};

use self::bus::Bus;
pub(crate) use self::machine::{Machine, Taken};
pub(crate) use self::unit::{Exit, FRAGMENT, Start, Unit};

const NAME: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNITS: &str = "/org/freedesktop/systemd1/unit/";

type Act = Box<dyn FnOnce(&mut Machine) + Send>;

enum Order {
    Act(Act),
    /// Gives up the name and the connection.
    Leave,
    /// Connects and takes the name.
    Join,
}

/// The played systemd and its bus; both end when it is dropped.
pub(crate) struct Systemd1 {
    bus: Bus,
    orders: mpsc::UnboundedSender<(Order, oneshot::Sender<()>)>,
    calls: watch::Sender<Vec<String>>,
}

impl Systemd1 {
    /// A systemd that knows these units.
    pub(crate) async fn start(units: Vec<Unit>) -> Self {
        let bus = Bus::start();
        let (orders, taken) = mpsc::unbounded_channel();
        let calls = watch::Sender::new(Vec::new());
        let player =
            Player { machine: Machine::new(units), address: bus.address(), connection: None, calls: calls.clone() };
        tokio::spawn(player.play(taken));
        let systemd = Self { bus, orders, calls };
        systemd.order(Order::Join).await;
        systemd
    }

    pub(crate) fn address(&self) -> String {
        self.bus.address()
    }

    async fn order(&self, order: Order) {
        let (done, told) = oneshot::channel();
        self.orders.send((order, done)).unwrap_or_else(|_| panic!("the played systemd has died"));
        told.await.expect("the played systemd has died");
    }

    /// Does something; returns when all that it made systemd say is on its way.
    pub(crate) async fn act(&self, act: impl FnOnce(&mut Machine) + Send + 'static) {
        self.order(Order::Act(Box::new(act))).await;
    }

    pub(crate) async fn add(&self, unit: Unit) {
        self.act(|machine| machine.insert(unit)).await;
    }

    /// Changes a unit without a word.
    pub(crate) async fn change(&self, job: &str, change: impl FnOnce(&mut Unit) + Send + 'static) {
        let unit = unit_of(job);
        self.act(move |machine| change(machine.unit(&unit))).await;
    }

    /// Somebody else starts the job, or the one that waits begins.
    pub(crate) async fn begin(&self, job: &str) {
        let unit = unit_of(job);
        self.act(move |machine| machine.begin(&unit)).await;
    }

    /// The job's main process ends.
    pub(crate) async fn end(&self, job: &str, exit: Exit) {
        let unit = unit_of(job);
        self.act(move |machine| machine.end(&unit, exit)).await;
    }

    /// As `systemctl daemon-reload`.
    pub(crate) async fn reload(&self) {
        self.act(|machine| machine.tell_reloading(true)).await;
        self.act(|machine| machine.tell_reloading(false)).await;
    }

    /// As `systemctl daemon-reexec`: the same units and subscribers at another connection.
    pub(crate) async fn reexecute(&self) {
        self.order(Order::Leave).await;
        self.order(Order::Join).await;
    }

    /// Somebody on the bus says to each subscriber, with systemd's words, that the job has succeeded.
    pub(crate) async fn forge_end(&self, job: &str) {
        let unit = unit_of(job);
        let (told, subscribers) = oneshot::channel();
        self.act(move |machine| told.send(machine.subscribers.clone()).unwrap()).await;
        let forger = zbus::connection::Builder::address(self.address().as_str()).build().await.unwrap();
        let mut played = Machine::new(vec![Unit::job(job)]);
        played.subscribers.insert("somebody".to_owned());
        played.begin(&unit);
        played.end(&unit, Exit::Code(0));
        let is_state =
            |message: &Message| message.header().member().is_some_and(|member| member == "PropertiesChanged");
        let messages: Vec<_> = played.take_outbox().into_iter().filter(is_state).collect();
        for subscriber in subscribers.await.unwrap() {
            for message in &messages {
                let (header, body) = (message.header(), message.body());
                let (path, interface) = (header.path().unwrap().clone(), header.interface().unwrap().clone());
                let signal = Message::signal(path, interface, header.member().unwrap().clone());
                let properties: (&str, HashMap<&str, Variant<'_>>, Vec<&str>) = body.deserialize().unwrap();
                forger.send(&signal.destination(subscriber.as_str()).build(&properties).unwrap()).await.unwrap();
            }
        }
        // The bus has taken the forgeries when it answers.
        call_bus(&forger, "GetId", &()).await;
    }

    /// Kills the bus, and systemd's connection with it.
    pub(crate) async fn kill_bus(&mut self) {
        self.bus.kill();
        self.act(|machine| machine.subscribers.clear()).await;
    }

    /// Starts a new bus at the same address, with systemd on it.
    pub(crate) async fn revive_bus(&mut self) {
        self.bus.revive();
        self.order(Order::Join).await;
    }

    /// The calls made since the last look, as `StartUnit ci-test-a.service`; takes them away.
    pub(crate) fn take_calls(&self) -> Vec<String> {
        self.calls.send_replace(Vec::new())
    }

    /// The number of calls of `member` since the last look.
    pub(crate) fn count(&self, member: &str) -> usize {
        self.calls.borrow().iter().filter(|call| call.split(' ').next() == Some(member)).count()
    }

    /// Returns when `call` has been made.
    pub(crate) async fn called(&self, call: &str) {
        let made = |calls: &Vec<String>| calls.iter().any(|made| made == call);
        let mut calls = self.calls.subscribe();
        let wait = tokio::time::timeout(Duration::from_secs(10), calls.wait_for(made));
        wait.await.unwrap_or_else(|_| panic!("{call} was not called")).unwrap();
    }
}

struct Player {
    machine: Machine,
    address: String,
    connection: Option<(Connection, MessageStream)>,
    calls: watch::Sender<Vec<String>>,
}

impl Player {
    async fn play(mut self, mut orders: mpsc::UnboundedReceiver<(Order, oneshot::Sender<()>)>) {
        loop {
            tokio::select! {
                order = orders.recv() => {
                    let Some((order, done)) = order else { return };
                    match order {
                        Order::Act(act) => act(&mut self.machine),
                        Order::Leave => self.leave().await,
                        Order::Join => self.join().await,
                    }
                    self.flush().await;
                    let _ = done.send(());
                }
                message = next(&mut self.connection) => {
                    self.take(&message);
                    if self.machine.take_leaving() {
                        self.leave().await;
                        self.join().await;
                    }
                    self.flush().await;
                }
            }
        }
    }

    async fn join(&mut self) {
        let builder = zbus::connection::Builder::address(self.address.as_str());
        let connection = builder.max_queued(8192.try_into().unwrap()).build().await.unwrap();
        let stream = MessageStream::from(&connection);
        call_bus(&connection, "RequestName", &(NAME, 0_u32)).await;
        self.connection = Some((connection, stream));
    }

    async fn leave(&mut self) {
        let Some((connection, _)) = self.connection.take() else { return };
        call_bus(&connection, "ReleaseName", &NAME).await;
        connection.close().await.unwrap();
    }

    fn take(&mut self, message: &Message) {
        let header = message.header();
        if message.message_type() != Type::MethodCall {
            return;
        }
        let member = header.member().map(ToString::to_string).unwrap_or_default();
        let unit = match header.path().map_or("", |path| path.as_str()) {
            MANAGER_PATH => first_argument(message).unwrap_or_default(),
            path => unit_at(path),
        };
        let call = format!("{member} {unit}");
        self.calls.send_modify(|calls| calls.push(call.trim_end().to_owned()));
        self.machine.answer(message, &member, &unit);
    }

    async fn flush(&mut self) {
        let mut outbox = VecDeque::from(self.machine.take_outbox());
        let Some((connection, _)) = &self.connection else { return };
        while let Some(message) = outbox.pop_front() {
            // The bus may have been killed; then nobody is there to hear it.
            let _ = connection.send(&message).await;
        }
    }
}

async fn call_bus<B: serde::Serialize + zbus::DynamicType + Sync>(connection: &Connection, method: &str, body: &B) {
    let bus = Some("org.freedesktop.DBus");
    connection.call_method(bus, "/org/freedesktop/DBus", bus, method, body).await.unwrap();
}

/// The next message; none comes any more where there is no connection.
async fn next(connection: &mut Option<(Connection, MessageStream)>) -> Message {
    if let Some((_, stream)) = connection
        && let Some(Ok(message)) = stream.next().await
    {
        return message;
    }
    *connection = None;
    std::future::pending().await
}

/// The unit that a call of the manager is about.
fn first_argument(message: &Message) -> Option<String> {
    let body = message.body();
    if let Ok((unit, _mode)) = body.deserialize::<(String, String)>() {
        return Some(unit);
    }
    body.deserialize().ok()
}

fn unit_of(job: &str) -> String {
    format!("{job}.service")
}

/// The object path of a unit.
fn path_of(unit: &str) -> ObjectPath<'static> {
    let encode = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("_{byte:02x}") }
    };
    let encoded: String = unit.bytes().map(encode).collect();
    ObjectPath::try_from(format!("{UNITS}{encoded}")).unwrap()
}

/// The unit at an object path.
fn unit_at(path: &str) -> String {
    let mut unit = Vec::new();
    let mut bytes = path.strip_prefix(UNITS).unwrap_or_default().bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'_' {
            let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
            unit.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            unit.push(byte);
        }
    }
    String::from_utf8(unit).unwrap()
}

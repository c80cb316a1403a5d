//! What the played systemd knows and does; a function from calls and orders to messages.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use zbus::{DynamicType, Message};

use super::unit::{Exit, Start, Stop, Unit, job_path};
use super::{Act, MANAGER, MANAGER_PATH};

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

pub(crate) struct Machine {
    units: BTreeMap<String, Unit>,
    /// Unique names of those who called `Subscribe`; without any there are no signals.
    pub(super) subscribers: BTreeSet<String>,
    outbox: Vec<Message>,
    jobs: u32,
    runs: u8,
    clock: u64,
    /// What happens right after the next list of units.
    after_list: Option<Act>,
    /// Whether the next start finds systemd about to execute itself anew, and if so whether it is still taken.
    last_start: Option<Taken>,
    is_leaving: bool,
}

/// What becomes of the last call before systemd executes itself anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Yes,
    No,
}

impl Machine {
    pub(super) fn new(units: Vec<Unit>) -> Self {
        let units = units.into_iter().map(|unit| (unit.name.clone(), unit)).collect();
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
        let clock = u64::try_from(clock).unwrap();
        Self {
            units,
            subscribers: BTreeSet::new(),
            outbox: Vec::new(),
            jobs: 0,
            runs: 0,
            clock,
            after_list: None,
            last_start: None,
            is_leaving: false,
        }
    }

    pub(super) fn take_outbox(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.outbox)
    }

    pub(super) fn insert(&mut self, unit: Unit) {
        self.units.insert(unit.name.clone(), unit);
    }

    pub(super) fn unit(&mut self, name: &str) -> &mut Unit {
        self.units.get_mut(name).unwrap_or_else(|| panic!("there is no unit {name}"))
    }

    fn now(&mut self) -> u64 {
        self.clock += 1000;
        self.clock
    }

    /// The unit of that name, brought into memory if there is a file for it.
    pub(crate) fn load(&mut self, name: &str) -> Option<&mut Unit> {
        if !self.units.contains_key(name) {
            let (template, _) = name.split_once('@')?;
            let instance = self.units.get(&format!("{template}@.service"))?.instance(name);
            self.units.insert(name.to_owned(), instance);
        }
        let unit = self.units.get_mut(name)?;
        unit.loaded = true;
        Some(unit)
    }

    /// Answers a call of `member`, about `unit` where it is about one.
    pub(super) fn answer(&mut self, call: &Message, member: &str, unit: &str) {
        match member {
            "Subscribe" => {
                let sender = call.header().sender().map(ToString::to_string).unwrap_or_default();
                if self.subscribers.insert(sender) {
                    self.reply(call, &());
                } else {
                    self.refuse(call, "org.freedesktop.systemd1.AlreadySubscribed");
                }
            }
            "ListUnitsByPatterns" => self.list_units(call),
            "ListUnitFilesByPatterns" => self.list_unit_files(call),
            "GetAll" => {
                let unit = self.load(unit).cloned().unwrap_or_else(|| Unit::not_found(unit));
                let target = self.units.get(&unit.id).cloned().unwrap_or(unit);
                self.reply(call, &target.properties());
            }
            "StartUnit" => {
                let last = self.last_start.take();
                if last != Some(Taken::No) {
                    self.start(call, unit);
                }
                self.is_leaving = last.is_some();
            }
            "StopUnit" => self.stop(call, unit),
            "RefUnit" => match self.load(unit) {
                Some(unit) if unit.pin_refused => self.refuse(call, "org.freedesktop.DBus.Error.AccessDenied"),
                Some(unit) => {
                    unit.references += 1;
                    self.reply(call, &());
                }
                None => self.refuse(call, "org.freedesktop.systemd1.NoSuchUnit"),
            },
            "UnrefUnit" => {
                self.unit(unit).references -= 1;
                self.reply(call, &());
            }
            _ => self.refuse(call, "org.freedesktop.DBus.Error.UnknownMethod"),
        }
    }

    fn list_units(&mut self, call: &Message) {
        let (_states, patterns): (Vec<String>, Vec<String>) = call.body().deserialize().unwrap();
        let listed: Vec<_> = self
            .units
            .values()
            .filter(|unit| unit.loaded && unit.id == unit.name && matches(&patterns, &unit.name))
            .map(|unit| {
                let path = super::path_of(&unit.name);
                let job = job_path(unit.job);
                (unit.name.clone(), "", unit.load_state, unit.active, unit.sub, "", path, unit.job, "", job)
            })
            .collect();
        self.reply(call, &listed);
        if let Some(act) = self.after_list.take() {
            act(self);
        }
    }

    /// Has something happen right after the next list of units, so that the list is out of date when it arrives.
    pub(crate) fn do_after_list(&mut self, act: impl FnOnce(&mut Self) + Send + 'static) {
        self.after_list = Some(Box::new(act));
    }

    /// Has systemd execute itself anew at the next start, which gets no reply.
    pub(crate) fn leave_at_start(&mut self, taken: Taken) {
        self.last_start = Some(taken);
    }

    /// Whether systemd is about to execute itself anew; what it has not sent yet is then lost.
    pub(super) fn take_leaving(&mut self) -> bool {
        if self.is_leaving {
            self.outbox.clear();
        }
        std::mem::take(&mut self.is_leaving)
    }

    fn list_unit_files(&mut self, call: &Message) {
        let (_states, patterns): (Vec<String>, Vec<String>) = call.body().deserialize().unwrap();
        let listed: Vec<_> = self
            .units
            .values()
            .filter(|unit| matches(&patterns, &unit.name))
            .filter_map(|unit| Some((format!("/etc/systemd/system/{}", unit.name), unit.file?)))
            .collect();
        self.reply(call, &listed);
    }

    fn start(&mut self, call: &Message, name: &str) {
        if self.load(name).is_none() {
            return self.refuse(call, "org.freedesktop.systemd1.NoSuchUnit");
        }
        let start = self.unit(name).start;
        if let Start::Refused(error) = start {
            return self.refuse(call, error);
        }
        let job = self.enqueue(name);
        if let Start::EndsBeforeReply(exit) = start {
            self.begin(name);
            self.end(name, exit);
            return self.reply(call, &job_path(job));
        }
        self.reply(call, &job_path(job));
        match start {
            Start::Runs => self.begin(name),
            Start::Serves => {
                self.begin(name);
                self.finish_job(name, "done");
            }
            Start::Fails(word) => self.finish_job(name, word),
            Start::ConditionFails => {
                self.unit(name).condition = false;
                self.finish_job(name, "done");
            }
            Start::LacksResources => {
                self.name(name);
                let unit = self.unit(name);
                (unit.active, unit.sub, unit.result) = ("failed", "failed", "resources");
                self.tell_change(name);
                self.finish_job(name, "failed");
            }
            Start::HitsLimit => {
                let unit = self.unit(name);
                (unit.active, unit.sub, unit.result) = ("failed", "failed", "start-limit-hit");
                self.finish_job(name, "failed");
            }
            Start::Waits | Start::Refused(_) | Start::EndsBeforeReply(_) => {}
        }
    }

    fn stop(&mut self, call: &Message, name: &str) {
        // A start that waits gives way to the stop.
        if self.unit(name).job != 0 {
            self.finish_job(name, "canceled");
        }
        let job = self.enqueue(name);
        self.reply(call, &job_path(job));
        let unit = self.unit(name);
        if !unit.is_running() {
            return self.finish_job(name, "done");
        }
        (unit.active, unit.sub) = ("deactivating", "stop-sigterm");
        let stop = unit.stop;
        self.tell_change(name);
        if let Stop::Terminates = stop {
            self.end(name, Exit::Signal(15));
        }
    }

    fn enqueue(&mut self, name: &str) -> u32 {
        self.jobs += 1;
        let job = self.jobs;
        self.unit(name).job = job;
        self.tell_change(name);
        job
    }

    /// A run of the unit gets its name, which systemd tells before the unit leaves `inactive`.
    fn name(&mut self, name: &str) {
        self.runs += 1;
        let invocation = [self.runs; 16];
        self.unit(name).name(invocation);
    }

    /// A run of the unit begins.
    pub(crate) fn begin(&mut self, name: &str) {
        let job = self.unit(name).job;
        if job == 0 {
            // Somebody else's start.
            self.enqueue(name);
        }
        self.name(name);
        self.tell_change(name);
        let now = self.now();
        self.unit(name).begin(now);
        self.tell_change(name);
    }

    /// A run of the unit begins, of which nobody is told.
    pub(crate) fn begin_unseen(&mut self, name: &str) {
        self.name(name);
        let now = self.now();
        self.unit(name).begin(now);
    }

    /// The run of the unit ends, and with it the systemd job that waited for it.
    pub(crate) fn end(&mut self, name: &str, exit: Exit) {
        let now = self.now();
        let unit = self.unit(name);
        unit.end(exit, now);
        let word = if unit.result == "success" { "done" } else { "failed" };
        // systemd tells the last change of a unit before the end of its job.
        self.tell_change(name);
        self.finish_job(name, word);
    }

    /// The run ends, and systemd begins another by itself, as `Restart=` has it.
    ///
    /// Before systemd 254 the unit becomes inactive once more `again`, between the two.
    pub(crate) fn restart(&mut self, name: &str, exit: Exit, again: bool) {
        self.end(name, exit);
        let (now, unit) = (self.now(), self.unit(name));
        (unit.active, unit.sub, unit.left_inactive) = ("activating", "auto-restart", now);
        self.tell_change(name);
        self.enqueue(name);
        if again {
            let (now, unit) = (self.now(), self.unit(name));
            (unit.active, unit.sub, unit.entered_inactive) = ("inactive", "dead", now);
        }
        self.name(name);
        self.tell_change(name);
        let left = if again { self.now() } else { now };
        self.unit(name).begin(left);
        self.tell_change(name);
        self.finish_job(name, "done");
    }

    /// The run of the unit ends, of which nobody is told.
    pub(crate) fn end_unseen(&mut self, name: &str, exit: Exit) {
        let now = self.now();
        let unit = self.unit(name);
        unit.end(exit, now);
        unit.job = 0;
    }

    /// The systemd job of the unit, if there is one, ends with this word.
    pub(crate) fn finish_job(&mut self, name: &str, word: &str) {
        let job = std::mem::take(&mut self.unit(name).job);
        if job != 0 {
            self.tell_change(name);
            self.signal(MANAGER_PATH, MANAGER, "JobRemoved", &(job, job_path(job), name, word));
        }
    }

    /// systemd drops the unit from its memory.
    pub(crate) fn unload(&mut self, name: &str) {
        let unit = self.unit(name);
        unit.loaded = false;
        unit.invocation.clear();
        (unit.active, unit.sub, unit.result, unit.exec_main) = ("inactive", "dead", "success", (0, 0));
        self.signal(MANAGER_PATH, MANAGER, "UnitRemoved", &(name, super::path_of(name)));
    }

    pub(crate) fn tell_files_changed(&mut self) {
        self.signal(MANAGER_PATH, MANAGER, "UnitFilesChanged", &());
    }

    pub(crate) fn tell_reloading(&mut self, reloading: bool) {
        self.signal(MANAGER_PATH, MANAGER, "Reloading", &reloading);
    }

    /// First what belongs to the service, then what belongs to the unit, as systemd does it.
    pub(super) fn tell_change(&mut self, name: &str) {
        let unit = self.unit(name).clone();
        let path = super::path_of(name);
        let nothing = Vec::<&str>::new();
        let service = ("org.freedesktop.systemd1.Service", unit.service_properties(), &nothing);
        self.signal(path.as_str(), PROPERTIES, "PropertiesChanged", &service);
        let unit = ("org.freedesktop.systemd1.Unit", unit.unit_properties(), &nothing);
        self.signal(path.as_str(), PROPERTIES, "PropertiesChanged", &unit);
    }

    fn signal<B: Serialize + DynamicType>(&mut self, path: &str, interface: &str, member: &str, body: &B) {
        if !self.subscribers.is_empty() {
            self.outbox.push(Message::signal(path, interface, member).build(body).unwrap());
        }
    }

    fn reply<B: Serialize + DynamicType>(&mut self, call: &Message, body: &B) {
        self.outbox.push(Message::method_return(&call.header()).build(body).unwrap());
    }

    fn refuse(&mut self, call: &Message, error: &str) {
        let message = "the played systemd refuses";
        self.outbox.push(Message::error(&call.header(), error).build(&message).unwrap());
    }
}

/// Whether a glob with one `*` matches.
fn matches(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| {
        let (start, end) = pattern.split_once('*').unwrap_or((pattern, ""));
        name.strip_prefix(start).is_some_and(|rest| rest.ends_with(end))
    })
}

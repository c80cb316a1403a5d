//! A unit of the played systemd: what it is, and what a start or a stop of it does.

use std::collections::HashMap;

use zbus::{ObjectPath, Variant};

/// A file that is what a unit file must be: root's own, below a system unit directory.
pub(crate) const FRAGMENT: &str = "/usr/lib/systemd/system/dbus.service";

/// How a main process ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
}

/// What a start does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    /// A `Type=oneshot` job: runs until told, and its systemd job as long.
    Runs,
    /// A `Type=simple` job: its systemd job is done at once, it runs until told.
    Serves,
    /// All is over, `JobRemoved` included, before the reply to `StartUnit` is sent.
    EndsBeforeReply(Exit),
    /// Waits in the queue until told.
    Waits,
    /// The systemd job ends with this word and nothing has run.
    Fails(&'static str),
    /// A `Condition…=` is not met.
    ConditionFails,
    /// systemd cannot set the process up, so the unit never leaves `inactive`.
    LacksResources,
    /// `StartLimitBurst=` is reached.
    HitsLimit,
    /// The call is refused with this D-Bus error.
    Refused(&'static str),
}

/// What a stop does to a unit that runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stop {
    /// Ends it by SIGTERM.
    Terminates,
    /// It goes on deactivating until told.
    Lingers,
}

/// A unit, in the words of `org.freedesktop.systemd1(5)`.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a property of its own in systemd's interface, or a decision"
)]
pub(crate) struct Unit {
    pub(crate) name: String,
    /// Differs from the name if that is an alias.
    pub(crate) id: String,
    /// Whether systemd has it in memory from the beginning.
    pub(crate) loaded: bool,
    /// Its state in the list of unit files; `None` if it is not there.
    pub(crate) file: Option<&'static str>,
    pub(crate) load_state: &'static str,
    pub(crate) load_error: &'static str,
    pub(crate) fragment: String,
    pub(crate) transient: bool,
    pub(crate) can_start: bool,
    pub(crate) start: Start,
    pub(crate) stop: Stop,
    /// Whether `RefUnit` is refused.
    pub(crate) pin_refused: bool,
    pub(crate) active: &'static str,
    pub(crate) sub: &'static str,
    pub(crate) result: &'static str,
    pub(crate) exec_main: (i32, i32),
    pub(crate) invocation: Vec<u8>,
    pub(crate) left_inactive: u64,
    pub(crate) entered_inactive: u64,
    pub(crate) condition: bool,
    pub(crate) assertion: bool,
    /// The number of its systemd job; 0 for none.
    pub(crate) job: u32,
    pub(crate) references: u32,
}

impl Unit {
    /// The unit of a job that runs until told and is in memory.
    pub(crate) fn job(name: &str) -> Self {
        let name = format!("{name}.service");
        Self {
            id: name.clone(),
            name,
            loaded: true,
            file: Some("static"),
            load_state: "loaded",
            load_error: "",
            fragment: FRAGMENT.to_owned(),
            transient: false,
            can_start: true,
            start: Start::Runs,
            stop: Stop::Terminates,
            pin_refused: false,
            active: "inactive",
            sub: "dead",
            result: "success",
            exec_main: (0, 0),
            invocation: Vec::new(),
            left_inactive: 0,
            entered_inactive: 0,
            condition: true,
            assertion: true,
            job: 0,
            references: 0,
        }
    }

    pub(crate) fn starting(name: &str, start: Start) -> Self {
        Self { start, ..Self::job(name) }
    }

    /// A unit that does not stop before it is told to.
    pub(crate) fn lingering(name: &str) -> Self {
        Self { stop: Stop::Lingers, ..Self::job(name) }
    }

    /// A template, which is never in memory itself.
    pub(crate) fn template(name: &str) -> Self {
        Self { loaded: false, ..Self::job(name) }
    }

    /// What systemd shows of a name that has no unit file.
    pub(super) fn not_found(name: &str) -> Self {
        let unit = Self::job(name.trim_end_matches(".service"));
        Self { load_state: "not-found", fragment: String::new(), file: None, loaded: false, ..unit }
    }

    pub(super) fn instance(&self, name: &str) -> Self {
        Self { name: name.to_owned(), id: name.to_owned(), file: None, ..self.clone() }
    }

    pub(super) fn is_running(&self) -> bool {
        !matches!(self.active, "inactive" | "failed")
    }

    /// A new run has its name.
    pub(super) fn name(&mut self, invocation: [u8; 16]) {
        self.invocation = invocation.to_vec();
        self.result = "success";
        self.exec_main = (0, 0);
    }

    /// A new run has begun.
    pub(super) fn begin(&mut self, now: u64) {
        (self.active, self.sub) = match self.start {
            Start::Serves => ("active", "running"),
            _ => ("activating", "start"),
        };
        self.left_inactive = now;
    }

    /// The run has ended.
    pub(super) fn end(&mut self, exit: Exit, now: u64) {
        (self.exec_main, self.result) = match exit {
            Exit::Code(0) => ((1, 0), "success"),
            Exit::Code(code) => ((1, code), "exit-code"),
            Exit::Signal(signal) => ((2, signal), "signal"),
        };
        (self.active, self.sub) = if self.result == "success" { ("inactive", "dead") } else { ("failed", "failed") };
        self.entered_inactive = now;
    }

    /// The properties of the interface `Service` that change.
    pub(super) fn service_properties(&self) -> HashMap<&'static str, Variant<'_>> {
        HashMap::from([
            ("Result", Variant::from(self.result)),
            ("ExecMainCode", Variant::from(self.exec_main.0)),
            ("ExecMainStatus", Variant::from(self.exec_main.1)),
        ])
    }

    /// The properties of the interface `Unit` that change.
    pub(super) fn unit_properties(&self) -> HashMap<&'static str, Variant<'_>> {
        HashMap::from([
            ("ActiveState", Variant::from(self.active)),
            ("SubState", Variant::from(self.sub)),
            ("InvocationID", Variant::from(self.invocation.clone())),
            ("InactiveExitTimestamp", Variant::from(self.left_inactive)),
            ("InactiveEnterTimestamp", Variant::from(self.entered_inactive)),
            ("ConditionResult", Variant::from(self.condition)),
            ("AssertResult", Variant::from(self.assertion)),
            ("Job", Variant::from((self.job, job_path(self.job)))),
        ])
    }

    /// All properties of both interfaces, as far as anybody here asks for them.
    pub(super) fn properties(&self) -> HashMap<&'static str, Variant<'_>> {
        let mut properties = self.service_properties();
        properties.extend(self.unit_properties());
        properties.extend([
            ("Id", Variant::from(self.id.as_str())),
            ("Description", Variant::from(format!("The job {}", self.name))),
            ("LoadState", Variant::from(self.load_state)),
            ("LoadError", Variant::from(("", self.load_error))),
            ("FragmentPath", Variant::from(self.fragment.as_str())),
            ("Transient", Variant::from(self.transient)),
            ("CanStart", Variant::from(self.can_start)),
        ]);
        properties
    }
}

/// The object path of a systemd job; `/` for none.
pub(super) fn job_path(job: u32) -> ObjectPath<'static> {
    let path = if job == 0 { "/".to_owned() } else { format!("/org/freedesktop/systemd1/job/{job}") };
    ObjectPath::try_from(path).unwrap()
}

//! The archive of logs as a user of the library sees it: logs that systemd's own code wrote, logs of real size, a process
//! that is killed, and a disk that is full.

#[cfg(test)]
mod archiver;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod logs;
#[cfg(test)]
#[path = "../journal/support.rs"]
#[expect(dead_code, reason = "these tests need only a part of what makes journals")]
mod support;

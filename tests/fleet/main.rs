//! The watch over a fleet from outside: polls go in, history and alerts come out, whatever happens in between.

#[cfg(test)]
mod day;
#[cfg(test)]
#[path = "../alerts/support.rs"]
#[expect(dead_code, reason = "these tests need only a part of it")]
mod hook;
#[cfg(test)]
mod imported;
#[cfg(test)]
mod rounds;
#[cfg(test)]
mod rows;
#[cfg(test)]
#[path = "../support/fleet/mod.rs"]
#[expect(dead_code, reason = "these tests need only a part of what it can do")]
mod service;
#[cfg(test)]
mod support;

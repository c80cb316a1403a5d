//! Alerts from outside: what a target gets, how often, and what never reaches it.

#[cfg(test)]
mod delivery;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod support;

//! The polkit rule that lets the service user start and stop the allowed units.
//!
//! This rule is the privilege boundary: it must hold also when the whole process is in an attacker's hands. So it is
//! stricter than it looks necessary:
//!
//! * The verb alone says too little. From systemd 257 on, `StartTransientUnit` asks polkit with the verb `start` and a
//!   unit name of the caller's choice; a rule that looks at name and verb only would let the user run any command as
//!   root. What tells the two apart is the message for the password dialogue, an untranslated constant of systemd.
//! * Freezing a unit comes as `stop` and thawing as `start`, and are told apart the same way.
//! * A message that is not the known one is refused. A systemd that rewords it makes starts fail, visibly; it never
//!   makes them wider.
//! * Every other action of this user is refused as well, also those that polkit grants to everybody.
//!
//! The rule is ECMAScript 5, which both of polkit's engines (Duktape and mozjs) understand.
//!
//! Source: polkit(8); `bus_verify_manage_units_async_full` and its callers in systemd's `src/core`.

use super::SERVICE_USER;
use crate::policy::{Prefix, RESERVED};

/// Where the rule belongs: readable for the user `polkitd`, writable for root only.
///
/// A number below 50 puts it before the rules of the distribution; the first rule with an answer wins.
pub const RULE_PATH: &str = "/etc/polkit-1/rules.d/49-ci-bridge.rules";

/// What no job's name holds, with the `.service` behind it: two dots in a row, or the suffix of a unit type at its end.
const MALFORMED: &str =
    r"\.\..*\.service$|\.(?:service|socket|device|mount|automount|swap|target|path|timer|slice|scope)\.service$";

/// What follows a prefix: the rest of the name, and an instance whose text may hold `\xNN` escapes.
const REST: &str = r"[A-Za-z0-9_][A-Za-z0-9:_.-]*(?:@(?:[A-Za-z0-9:_.-]|\\x[0-9a-f]{2})+)?\.service$";

/// The text of the rule that allows the units of `prefixes`; none of them allows nothing.
///
/// It admits the units of the jobs that [`Policy::admit`](crate::policy::Policy::admit) admits, less templates without
/// an instance, which are no units, and instances with a malformed escape, which no job's name can hold.
///
/// The same prefixes give the same text, so that a caller can compare it with the file.
#[must_use]
pub fn rule(prefixes: &[Prefix]) -> String {
    // None of them holds a character that is special in a regular expression.
    let reserved = RESERVED.join("|");
    let jobs: Vec<String> = prefixes.iter().map(|prefix| format!("        /{}/", job_pattern(prefix))).collect();
    let jobs = if jobs.is_empty() { String::new() } else { format!("\n{}\n    ", jobs.join(",\n")) };
    format!(
        r#"// Written by `ci-bridge init` from the prefixes in /etc/ci-bridge/config.toml. Run it again after changing them.
// The user {SERVICE_USER} may start, stop, reset and watch the services below, and do nothing else.
polkit.addRule(function (action, subject) {{
    if (subject.user !== "{SERVICE_USER}") {{
        return polkit.Result.NOT_HANDLED;
    }}
    if (action.id !== "org.freedesktop.systemd1.manage-units") {{
        return polkit.Result.NO;
    }}

    // The message keeps transient units out: since systemd 257 they come with the verb "start" and any name, and run
    // any command as root. A message that is not known is refused.
    var verb = action.lookup("verb");
    var message = action.lookup("polkit.message");
    var allowed =
        (verb === "start" && message === "Authentication is required to start '$(unit)'.") ||
        (verb === "stop" && message === "Authentication is required to stop '$(unit)'.") ||
        (verb === "reset-failed" &&
            message === "Authentication is required to reset the \"failed\" state of '$(unit)'.") ||
        (verb === "ref" && message === undefined);
    if (!allowed) {{
        return polkit.Result.NO;
    }}

    var unit = action.lookup("unit");
    var reserved = /^(?:{reserved})/;
    var malformed = /{MALFORMED}/;
    if (typeof unit !== "string" || unit.length > 255 || reserved.test(unit) || malformed.test(unit)) {{
        return polkit.Result.NO;
    }}
    var jobs = [{jobs}];
    for (var i = 0; i < jobs.length; i++) {{
        if (jobs[i].test(unit)) {{
            return polkit.Result.YES;
        }}
    }}
    return polkit.Result.NO;
}});
"#
    )
}

/// The anchored regular expression of the units that `prefix` allows.
fn job_pattern(prefix: &Prefix) -> String {
    let mut pattern = String::from("^");
    for character in prefix.as_str().chars() {
        // A prefix holds nothing but `[A-Za-z0-9:_.-]`; what might mean something to the expression is escaped all the
        // same, so that a wider prefix of the future stays text.
        if !(character.is_ascii_alphanumeric() || matches!(character, ':' | '_' | '-')) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push_str(REST);
    pattern
}

#[cfg(test)]
mod tests;

//! The settings file that an administrator begins with.

use crate::policy::Prefix;

/// The text of a settings file that allows `prefixes` and shows every other key with its default, commented out.
#[must_use]
pub fn starter(prefixes: &[Prefix]) -> String {
    let prefixes: Vec<_> = prefixes.iter().map(|prefix| format!("\"{}\"", prefix.as_str())).collect();
    format!(
        r#"# Configuration of ci-bridge. Only the prefixes are needed; the other lines show the defaults.
# After a change: `systemctl restart ci-bridge`.

# An address, or a list of them. A socket is written "unix:/run/ci-bridge/http.sock".
#listen = "127.0.0.1:8000"

# Whether a token may come in the URL as ?token=, where proxies may record it:
# "allow", "read-only" (not for starting and stopping) or "deny".
#query_tokens = "allow"

# The hashes of the tokens, see `ci-bridge token --help`.
#tokens_file = "/etc/ci-bridge/tokens.toml"

# Where the history of runs is kept.
#state_directory = "/var/lib/ci-bridge"

[jobs]
# Units whose name starts like this may be started, stopped and read.
# After a change run `ci-bridge init`, which writes the polkit rule again.
prefixes = [{}]

# How many instances of templates that were not seen before may be asked for in an hour.
#instances_per_hour = 200

# What a job may be given with its start is declared in sections such as [jobs.inputs."ci-test-deploy@".version];
# /usr/share/doc/ci-bridge/operations.md has an example.

[limits]
# Connections open at once.
#max_connections = 4096

# Logs that are followed at once; each takes one of the connections.
#max_streams = 2000

# Runs of one job that may wait for it with ?if_busy=queue.
#max_queued_runs = 20

# How long a client may take to send the head of a request, and how long a connection may idle.
#header_timeout = "10s"

[archive]
# Logs of runs that have ended are kept in the state directory, for when journald has deleted them.
#enabled = true

# A log goes when its run ended so long ago, when all logs together take more of the disk, or when there are so many
# newer ones of its job. The last one of a job stays in any case.
#max_age = "400d"
#max_bytes = "10GiB"
#max_runs_per_job = 1000

# No log is written that would leave less of the disk free.
#keep_free = "1GiB"

[history]
# How long a run is kept after its end, and how many of a job; the last one of a job is kept always.
#max_age = "400d"
#max_runs_per_job = 10000

# How long is kept who did what.
#audit_max_age = "400d"

[metrics]
# Whether /metrics also has the runners of GitHub under the names that other exporters give them.
#exporter_names = false
"#,
        prefixes.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn the_defaults_it_shows_are_the_defaults() {
        let prefixes = ["ci-test-", "nightly-"].map(|prefix| Prefix::parse(prefix).unwrap());
        let text = starter(&prefixes);
        let settings = Settings::parse(&text).unwrap();
        assert_eq!(settings.jobs.policy.prefixes(), prefixes);

        // A comment has a space after its `#`, a key has none.
        let uncommented: String = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|key| !key.starts_with(' ')).unwrap_or(line))
            .collect::<Vec<_>>()
            .join("\n");
        assert_ne!(uncommented, text);
        assert_eq!(Settings::parse(&uncommented).unwrap(), settings);
        assert_eq!(uncommented.lines().filter(|line| line.contains(" = ")).count(), 19);
    }
}

//! The text format of Prometheus, version 0.0.4.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::{Display, Write as _};

/// Its media type.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric with all its series.
#[derive(Clone, Copy)]
pub(super) struct Family {
    /// Of `[a-z_]`.
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    /// One line without a backslash.
    pub(super) help: &'static str,
}

impl Family {
    pub(super) const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: "gauge", help }
    }

    pub(super) const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: "counter", help }
    }

    /// Writes what stands before the series.
    pub(super) fn begin(&self, out: &mut String) {
        let Self { name, kind, help } = self;
        // Writing to a text can't fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Writes one series; `labels` are of [`labels`].
    pub(super) fn series(&self, out: &mut String, labels: &str, value: impl Display) {
        let name = self.name;
        let _ = if labels.is_empty() {
            writeln!(out, "{name} {value}")
        } else {
            writeln!(out, "{name}{{{labels}}} {value}")
        };
    }

    /// Writes a metric that has one series.
    pub(super) fn single(&self, out: &mut String, value: impl Display) {
        self.begin(out);
        self.series(out, "", value);
    }
}

/// Labels as they stand between the braces.
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut labels = String::new();
    for (name, value) in pairs {
        if !labels.is_empty() {
            labels.push(',');
        }
        labels.push_str(name);
        labels.push_str("=\"");
        for char in value.chars() {
            match char {
                '\\' => labels.push_str("\\\\"),
                '"' => labels.push_str("\\\""),
                '\n' => labels.push_str("\\n"),
                char => labels.push(char),
            }
        }
        labels.push('"');
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_value_is_escaped_and_nothing_else_is() {
        assert_eq!(labels(&[]), "");
        assert_eq!(labels(&[("a", "ä} b"), ("c", "\"\\\n")]), "a=\"ä} b\",c=\"\\\"\\\\\\n\"");
    }

    #[test]
    fn a_metric_is_announced_before_its_series() {
        let mut out = String::new();
        let family = Family::gauge("up", "Whether it is.");
        family.begin(&mut out);
        family.series(&mut out, "", 1);
        family.series(&mut out, &labels(&[("a", "b")]), 0.5);
        assert_eq!(out, "# HELP up Whether it is.\n# TYPE up gauge\nup 1\nup{a=\"b\"} 0.5\n");
    }
}

//! The escaping of instances, held against `systemd-escape(1)` over random texts.

#![expect(clippy::expect_used, reason = "what a test can't do without ends it")]

use std::process::Command;

use ci_bridge::policy::escape;
use proptest::prelude::*;

/// What the tool of this machine makes of `texts`, in their order.
fn systemd_escape(texts: &[String]) -> Vec<String> {
    let output = Command::new("systemd-escape")
        .arg("--")
        .args(texts)
        .output()
        .expect("systemd-escape runs; it is in the package systemd");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("escaped text is ASCII").trim_end().split(' ').map(str::to_owned).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No text is empty, and none holds a NUL: neither can be told on a command line.
    #[test]
    fn every_text_is_escaped_as_systemd_escape_does(
        texts in proptest::collection::vec("[^\0]{1,30}|[a-z./@:_\\\\ -]{1,30}|\\.{1,3}[^\0]{0,5}", 64),
    ) {
        let ours: Vec<String> = texts.iter().map(|text| escape(text)).collect();
        prop_assert_eq!(ours, systemd_escape(&texts));
    }
}

//! A name or an instance is refused, or names a unit that can hold nothing but what a unit name may.
#![no_main]

use ci_bridge::policy::{JobName, Policy, Prefix, escape};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(job) = JobName::parse(text) {
        assert_eq!(job.as_str(), text, "it was changed");
        check(&job);
        let unit = Prefix::parse("ci-test-").map(|prefix| Policy::new(vec![prefix]).admit(&job).is_ok());
        assert!(unit != Ok(true) || text.starts_with("ci-test-"));
    }
    if let Ok(job) = JobName::from_unit(text) {
        assert_eq!(job.unit(), text, "it was changed");
        check(&job);
    }
    let template = JobName::parse("ci-test-build@").expect("a template");
    if let Ok(job) = template.with_instance(text) {
        check(&job);
        assert_eq!(job.template(), Some(template));
        assert_eq!(JobName::from_unit(&job.unit()), Ok(job.clone()), "systemd's own name of it is another");
        let value = job.escaped_value();
        assert!(value.is_none_or(|value| value == text), "the instance has become another");
        assert!(job.as_str().ends_with(&escape(text)));
    }
});

fn check(job: &JobName) {
    let unit = job.unit();
    assert!(unit.len() <= 255 && unit.ends_with(".service") && !job.as_str().contains(".."), "{unit:?}");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":_.-@\\".contains(&byte);
    assert!(unit.bytes().all(plain) && unit.matches('@').count() <= 1, "{unit:?}");
    assert!(unit.starts_with(|first: char| first.is_ascii_alphanumeric()), "{unit:?}");
}

//! Any bytes at all as a journal file, behind the signature.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use ci_bridge::journal::Journal;
use ci_bridge_fuzz::{ask_everything, directory};
use libfuzzer_sys::fuzz_target;

static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(directory);

fuzz_target!(|bytes: &[u8]| {
    fs::write(DIRECTORY.join("system.journal"), [b"LPKSHHRH", bytes].concat()).expect("a file");
    ask_everything(&Journal::new(vec![DIRECTORY.clone()]));
});

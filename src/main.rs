#![doc = "The `ci-bridge` program."]

fn main() {}

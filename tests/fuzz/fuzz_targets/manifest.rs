//! A manifest that a user, or a tool of theirs, wrote: objects and errors with their lines, never a panic.
#![no_main]
use signet_controller::source::parse::parse;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (_, errors) = parse("fuzz.yaml", text);
    for error in errors {
        assert_eq!(error.file, "fuzz.yaml");
    }
});

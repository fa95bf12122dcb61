#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| atoll_fuzzing::targets::mesh_stream(bytes));

//! Compiles the contracts in `proto/` with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        ["atoll/catalogue.proto", "atoll/control.proto", "atoll/mesh.proto", "atoll/place.proto", "atoll/worker.proto"],
        ["proto"],
    )?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}

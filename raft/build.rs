//! Compiles `proto/raft.proto`; `protox` parses it, so no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["raft.proto"], ["proto"])?;
    // `bytes`: a payload is decoded as a slice of what came (`uncopied`).
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}

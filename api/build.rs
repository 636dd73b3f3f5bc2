//! Compiles proto/ without protoc.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "istio/ca.proto",
        "envoy/discovery.proto",
        "grpc/health.proto",
        "signet/v1.proto",
        "signet/wire.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .btree_map(".")
        .codec_path("crate::codec::Small")
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}

//! Compiles proto/ without protoc.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "istio/ca.proto",
        "envoy/discovery.proto",
        "grpc/health.proto",
        "signet/v1.proto",
        "signet/wire.proto",
        "signet/edge.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    // A private key is nothing to print: src/edge.rs does it by hand.
    tonic_prost_build::configure()
        .btree_map(".")
        .skip_debug(["signet.edge.v1.Certificate", "signet.edge.v1.TlsAlpn01"])
        .codec_path("crate::codec::Small")
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}

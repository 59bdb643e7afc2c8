//! Compiles the messages of protobuf requests into descriptors; `protox` needs no `protoc`.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let groups = ["core", "storage", "apps", "batch", "coordination", "authorization", "authentication", "policy", "autoscaling"];
    let mut files: Vec<String> = groups.iter().map(|group| format!("proto/k8s.io/api/{group}/v1/generated.proto")).collect();
    files.push("proto/k8s.io/apimachinery/pkg/runtime/generated.proto".to_owned());
    let descriptors = protox::compile(files, ["proto"])?;
    let out = std::path::Path::new(&std::env::var("OUT_DIR")?).join("kubernetes.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    Ok(())
}

//! Compiles the `.proto` files in process, so that a build needs no `protoc`.

use std::path::PathBuf;
use std::{env, fs};

const CONTROL: &str = "cloudathome/control/v1/control.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=cloudathome");
    println!("cargo::rerun-if-changed=baseline");
    tonic_prost_build::configure().compile_fds(protox::compile([CONTROL], ["."])?)?;
    if env::var_os("CARGO_FEATURE_BASELINE").is_some() {
        // Its package has the same name.
        let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?).join("baseline");
        fs::create_dir_all(&out)?;
        tonic_prost_build::configure().out_dir(out).compile_fds(protox::compile([CONTROL], ["baseline"])?)?;
    }
    Ok(())
}

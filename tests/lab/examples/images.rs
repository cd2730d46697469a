//! Provides the lab's images, newer OpenVPNs and the newer engine, and says what they are: `cargo run -p lab --example images`, as root. With the path of an
//! engine's socket as argument, loads them into it.

use std::path::PathBuf;

use lab::images::{self, Wanted};

fn main() -> anyhow::Result<()> {
    let mut say = |step: &str| println!("{step}");
    lab::Peers::provide(&mut say)?;
    lab::EngineVersion::Sid.provide(&mut say)?;
    lab::System::provide(&mut say)?;
    for wanted in Wanted::ALL {
        let image = images::one(wanted, &mut say)?;
        let note = if image.stand_in { ", a stand-in" } else { "" };
        println!("{}{note}: {} in {}", image.name, image.version, image.tar.display());
        if let Some(socket) = std::env::args_os().nth(1).map(PathBuf::from) {
            image.load_into(&socket)?;
        }
    }
    Ok(())
}

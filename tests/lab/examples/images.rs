//! Provides the lab's images and newer OpenVPNs, and says what they are: `cargo run -p lab --example images`, as root. With the path of an
//! engine's socket as argument, loads them into it.

use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let images = lab::images::provide(&mut |step| println!("{step}"))?;
    lab::Peers::provide(&mut |step| println!("{step}"))?;
    for image in [images.caddy, images.nextcloud] {
        let note = if image.stand_in { ", a stand-in" } else { "" };
        println!("{}{note}: {} in {}", image.name, image.version, image.tar.display());
        if let Some(socket) = std::env::args_os().nth(1).map(PathBuf::from) {
            image.load_into(&socket)?;
        }
    }
    Ok(())
}

//! What a path is measured on: two hosts and a cable.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Host, Lab, Topology};
use model::Role;
use pki::{Ca, Subject, Validity};
use secrecy::ExposeSecret;

use super::congestion::CONTROL;

/// Longest frame on a cable that carries no super-packets: MTU 1500 and the Ethernet header.
const FRAME: u32 = 1514;
/// A certificate's life: longer than any run.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// What a kernel may do for many packets at once. The names are those of `ethtool`; a cable has not all of them.
const OFFLOADS: [&str; 6] = ["tso", "gso", "gro", "tx-udp-segmentation", "rx-udp-gro-forwarding", "rx-gro-list"];

/// Two hosts, `left` and `right`. Dropping it leaves the machine as it was.
pub(crate) struct Bed {
    pub(crate) left: Host,
    pub(crate) right: Host,
    /// Whether super-packets stay whole on the cable.
    pub(crate) whole: bool,
    ca: Ca,
    lab: Lab,
}

impl Bed {
    pub(crate) fn new(whole: bool) -> Result<Self> {
        let lab = Lab::new(Topology::Pair)?;
        let bed = Self {
            left: lab.host("left")?.clone(),
            right: lab.host("right")?.clone(),
            whole,
            ca: Ca::generate("bench", Validity::from_now(LIFE))?,
            lab,
        };
        for host in [&bed.left, &bed.right] {
            // What one path taught the kernel about the other host must not serve the next.
            for (name, value) in [("tcp_congestion_control", CONTROL), ("tcp_no_metrics_save", "1")] {
                let file = format!("/proc/sys/net/ipv4/{name}");
                host.inside(|| fs::write(&file, value))?.with_context(|| format!("write {value} to {file}"))?;
            }
            if !whole {
                for offload in OFFLOADS {
                    // Whether it worked is seen by the packets.
                    host.output(Duration::from_secs(5), &["ethtool", "-K", "eth0", offload, "off"])?;
                }
            }
        }
        fs::write(bed.file("ca.pem"), bed.ca.cert_pem())?;
        bed.issue("left", Role::Home)?;
        bed.issue("right", Role::Edge)?;
        Ok(bed)
    }

    /// Directory for both hosts' files.
    pub(crate) fn dir(&self) -> PathBuf {
        self.lab.dir().join("files")
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.dir().join(name).display().to_string()
    }

    /// `NAME.pem` and `NAME.key`.
    fn issue(&self, name: &str, role: Role) -> Result<()> {
        let identity = self.ca.issue(&Subject { role, name: name.parse()?, validity: Validity::from_now(LIFE) })?;
        fs::write(self.file(&format!("{name}.pem")), identity.cert_pem)?;
        fs::write(self.file(&format!("{name}.key")), identity.key_pem.expose_secret())?;
        Ok(())
    }

    /// `device0` and so on.
    pub(crate) fn issue_device_certificates(&self, count: u32) -> Result<()> {
        (0..count).try_for_each(|number| self.issue(&format!("device{number}"), Role::Device))
    }

    /// Looks at the cable while `send` makes traffic.
    ///
    /// # Errors
    /// When a frame was longer than the MTU allows.
    pub(crate) fn check_frames(&self, mut send: impl FnMut() -> Result<()>) -> Result<()> {
        let file = self.file("frames.pcap");
        let mut tcpdump = self.right.command("tcpdump");
        tcpdump.args(["-i", "eth0", "-w", &file, "-s", "64", "-U", "--immediate-mode"]);
        let mut tcpdump = self.right.spawn("tcpdump", tcpdump)?;
        tcpdump.wait_until("tcpdump", Duration::from_secs(5), || Ok(PathBuf::from(&file).exists()))?;
        send()?;
        tcpdump.terminate(Duration::from_secs(5))?;
        let lengths = frame_lengths(&fs::read(&file)?);
        let longest = lengths.iter().max().context("no frame was seen on the cable")?;
        ensure!(*longest <= FRAME, "super-packets survive on the cable: a frame has {longest} bytes");
        Ok(())
    }
}

/// The frames' lengths on the cable, by a capture in the format of libpcap.
fn frame_lengths(capture: &[u8]) -> Vec<u32> {
    let mut lengths = Vec::new();
    let mut rest = capture.get(24..).unwrap_or_default();
    while let Some((header, after)) = rest.split_first_chunk::<16>() {
        let [.., a, b, c, d, e, f, g, h] = *header;
        lengths.push(u32::from_ne_bytes([e, f, g, h]));
        rest = after.get(u32::from_ne_bytes([a, b, c, d]) as usize..).unwrap_or_default();
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lengths_of_a_capture() {
        let mut capture = vec![0; 24];
        for (kept, length) in [(2u32, 1514u32), (3, 60)] {
            capture.extend([0; 8]);
            capture.extend(kept.to_ne_bytes());
            capture.extend(length.to_ne_bytes());
            capture.extend(vec![7; kept as usize]);
        }
        assert_eq!(frame_lengths(&capture), [1514, 60]);
        assert_eq!(frame_lengths(&capture[..45]), [1514]);
        assert_eq!(frame_lengths(&[]), [0; 0]);
    }
}

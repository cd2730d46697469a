//! `agentctl pki profile`: a device's identity as the one file that stock OpenVPN clients import.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, anyhow};
use model::Role;
use profile::{Cipher, DeviceIdentity, DeviceProfile, DeviceRemote, DeviceWrapping, TlsVersion};
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;

use crate::cli::ProfileArgs;
use crate::exit::{Exit, Failure};
use crate::pki_command::issued;

/// Issues the identity and writes the profile: whole or not at all, and never in place of anything.
pub(crate) fn run(args: &ProfileArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    if fs::symlink_metadata(&args.out).is_ok() {
        let error = anyhow!("{} is there already: a profile in use is not overwritten", args.out.display());
        return Err(Failure::new(error, "name a file that does not exist, or move this one away"));
    }
    let identity = issued(&args.ca, Role::Device, &args.name)?;
    let info = identity.info().context("the certificate just made cannot be read")?;
    let wrapping = match &args.tls_crypt_v2 {
        None => DeviceWrapping::TlsCrypt(identity.tls_crypt),
        Some(path) => {
            let key = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            DeviceWrapping::TlsCryptV2(key.into())
        }
    };
    let mut remotes: Vec<DeviceRemote> = args.remotes.iter().flat_map(|remotes| remotes.0.iter().cloned()).collect();
    // The sort is stable: for each transport the order is the one on the command line.
    remotes.sort_by_key(|remote| remote.tcp);
    let profile = DeviceProfile {
        remotes,
        server_name: args.server.to_string(),
        data_ciphers: Cipher::DEFAULT.to_vec(),
        tls_version_min: TlsVersion::V1_2,
        ca_pem: identity.ca_pem,
        identity: Some(DeviceIdentity { cert_pem: identity.identity.cert_pem, key_pem: identity.identity.key_pem }),
        ask_password: false,
        wrapping,
    };
    let text = profile.to_text().context("cannot write the profile")?;
    write(&args.out, &text).with_context(|| format!("cannot write {}", args.out.display()))?;

    writeln!(out, "{}", args.out.display())?;
    let until = OffsetDateTime::from(info.not_after).date();
    eprintln!("Profile for {} made, valid until {until}. It holds the device's private key.", info.role);
    eprintln!("next: bring it to the device by a way that nobody else can read, import it there, and remove it here");
    Ok(Exit::Ok)
}

/// Readable by its owner only, from its first byte on.
fn write(path: &Path, text: &SecretString) -> anyhow::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new().prefix(".cloudathome-new-").tempfile_in(parent)?;
    file.write_all(text.expose_secret().as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    Ok(File::open(parent)?.sync_all()?)
}

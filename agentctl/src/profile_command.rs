//! `agentctl pki profile`: a device's identity as the one file that stock OpenVPN clients import.

use std::fs;
use std::io::Write;

use anyhow::Context;
use model::Role;
use profile::{Cipher, DeviceIdentity, DeviceNetwork, DeviceProfile, DeviceRemote, DeviceWrapping, TlsVersion};
use secrecy::ExposeSecret;
use time::OffsetDateTime;

use crate::cli::ProfileArgs;
use crate::exit::{Exit, Failure};
use crate::new_file::NewFile;
use crate::pki_command::issued;

/// Issues the identity and writes the profile: whole or not at all, and never in place of anything.
pub(crate) fn run(args: &ProfileArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let file = NewFile::begin(&args.out).map_err(|error| {
        Failure::new(error, "name a file that does not exist yet, in a directory that you may write to")
    })?;
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
        network: DeviceNetwork::default(),
    };
    let text = profile.to_text().context("cannot write the profile")?;
    file.finish(text.expose_secret().as_bytes())?;

    writeln!(out, "{}", args.out.display())?;
    let until = OffsetDateTime::from(info.not_after).date();
    eprintln!("Profile for {} made, valid until {until}. It holds the device's private key.", info.role);
    eprintln!("next: bring it to the device by a way that nobody else can read, import it there, and remove it here");
    Ok(Exit::Ok)
}

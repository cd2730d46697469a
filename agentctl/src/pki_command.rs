//! `agentctl pki`: the authority and the identities, by hand.
//!
//! An authority's directory:
//!
//! | file | what | mode |
//! |---|---|---|
//! | `ca/ca.crt` | the CA's certificate | 0644 |
//! | `ca/ca.key` | its key | 0600 |
//! | `tls-crypt.key` | the tunnel's static key, the same for every identity | 0600 |
//! | `issued/SERIAL.crt` | copies of the certificates that were issued | 0644 |
//! | `crl.pem` | the list of revoked certificates, once there is one | 0644 |

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, anyhow};
use model::{HostId, Role};
use pki::{Ca, HostIdentity, Subject, Validity, check_static_key, file, generate_static_key};
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;

use crate::cli::{InitArgs, IssueArgs};
use crate::exit::{Exit, Failure};

const CA_DIR: &str = "ca";

/// Makes an authority: its directory appears whole or not at all, and never in place of anything.
pub(crate) fn init(args: &InitArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let dir = &args.dir;
    refuse_filled(dir, "an authority is never replaced, because every identity it issued would be lost with it")?;
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let staging = tempfile::Builder::new()
        .prefix(".cloudathome-new-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot make a directory in {}", parent.display()))?;

    let new = staging.path().join("authority");
    let write = || -> anyhow::Result<()> {
        DirBuilder::new().mode(0o700).create(&new)?;
        Ca::generate(&args.name, Validity::from_now(Validity::CA))?.save(&new.join(CA_DIR))?;
        let key = generate_static_key();
        let mut handle = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new.join(file::TLS_CRYPT))?;
        handle.write_all(key.expose_secret().as_bytes())?;
        handle.sync_all()?;
        Ok(File::open(&new)?.sync_all()?)
    };
    write().with_context(|| format!("cannot make the authority in {}", parent.display()))?;
    // Takes the place of an empty directory, and refuses one that was filled meanwhile.
    fs::rename(&new, dir)
        .and_then(|()| File::open(parent)?.sync_all())
        .with_context(|| format!("cannot put the authority at {}", dir.display()))?;

    writeln!(out, "{}", dir.display())?;
    eprintln!(
        "Authority {:?} made. Whoever holds {} can make hosts that yours trust: keep it safe.",
        args.name,
        dir.display()
    );
    eprintln!("next: agentctl pki issue --ca {} --role edge --name NAME --out DIR", dir.display());
    Ok(Exit::Ok)
}

/// Issues an identity into a directory of its own.
pub(crate) fn issue(args: &IssueArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let role = Role::from(args.role);
    refuse_filled(&args.out, "an identity in use is not overwritten")?;
    let identity = issued(&args.ca, role, &args.name)?;
    let info = identity.info().context("the certificate just made cannot be read")?;
    identity.save(&args.out)?;

    writeln!(out, "{}", args.out.display())?;
    let until = OffsetDateTime::from(info.not_after).date();
    eprintln!("Identity {} issued, valid until {until}.", info.role);
    let next = match role {
        Role::Edge | Role::Home => {
            format!("bring it to {} as /var/lib/cloudathome/identity, owned by root, and remove it here", args.name)
        }
        Role::Device => {
            "a stock OpenVPN client takes its files as --ca, --cert, --key and --tls-crypt; agentctl pki profile \
                         makes one file of them"
                .to_owned()
        }
    };
    eprintln!("next: {next}");
    Ok(Exit::Ok)
}

/// Reads the authority out of the directory that [`init`] made.
pub(crate) fn load_authority(dir: &Path) -> Result<Ca, Failure> {
    if authority::Authority::is_at(dir) {
        return Err(Failure::new(
            anyhow!("{} is the authority of this host's edge-agent, which alone issues with it", dir.display()),
            "for a home: `agentctl code new`; for a device: `agentctl device add NAME`",
        ));
    }
    Ca::load(&dir.join(CA_DIR)).map_err(|error| {
        let hint =
            format!("name the directory that agentctl pki init made; it holds {CA_DIR}/ and {}", file::TLS_CRYPT);
        Failure::new(error, hint)
    })
}

/// A new identity by the authority in `dir`, which keeps a copy of its certificate.
pub(crate) fn issued(dir: &Path, role: Role, name: &HostId) -> Result<HostIdentity, Failure> {
    let ca = load_authority(dir)?;
    let tls_crypt = static_key(&dir.join(file::TLS_CRYPT))?;
    let subject = Subject { role, name: name.clone(), validity: Validity::from_now(Validity::LEAF) };
    let identity = HostIdentity { ca_pem: ca.cert_pem().to_owned(), identity: ca.issue(&subject)?, tls_crypt };
    authority::issued::record(dir, &identity.identity.cert_pem, ca.cert_pem())?;
    Ok(identity)
}

fn static_key(path: &Path) -> Result<SecretString, Failure> {
    let lost = "put back the key that the other identities carry: an identity with another one cannot connect";
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read {}", path.display()))
        .map_err(|error| Failure::new(error, lost))?;
    check_static_key(&text)
        .with_context(|| format!("{} holds no OpenVPN static key", path.display()))
        .map_err(|error| Failure::new(error, lost))?;
    Ok(text.into())
}

/// Only a directory that is not there or empty is written to.
fn refuse_filled(dir: &Path, why: &str) -> Result<(), Failure> {
    let first = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().transpose(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
    };
    match first.with_context(|| format!("cannot look into {}", dir.display()))? {
        None => Ok(()),
        Some(entry) => Err(Failure::new(
            anyhow!("{} holds {:?} already: {why}", dir.display(), entry.file_name()),
            "name a directory that does not exist or is empty, or move this one away",
        )),
    }
}

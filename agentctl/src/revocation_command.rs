//! `agentctl pki revoke` and `agentctl pki crl`: the authority's list of revoked certificates, `crl.pem` in its directory.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use model::HostId;
use pki::{Ca, CertificateInfo, RevocationList, Serial};
use time::OffsetDateTime;

use crate::cli::{CrlArgs, RevokeArgs};
use crate::exit::{Exit, Failure};
use crate::pki_command::load_authority;

/// The list, in the authority's directory.
const LIST: &str = "crl.pem";
/// Copies of the certificates that were issued, in the authority's directory.
const ISSUED: &str = "issued";

const DAY: Duration = Duration::from_secs(86_400);

/// Keeps a copy of a certificate, so that it can be revoked by its holder's name.
pub(crate) fn record(authority: &Path, cert_pem: &str, ca_pem: &str) -> Result<(), Failure> {
    let dir = authority.join(ISSUED);
    let serial = Serial::of(cert_pem, ca_pem).context("the certificate just made cannot be read")?;
    let path = dir.join(format!("{serial}.crt"));
    fs::create_dir_all(&dir)
        .and_then(|()| RevocationList::save(cert_pem, &path))
        .with_context(|| format!("cannot keep a copy of the certificate at {}", path.display()))?;
    Ok(())
}

/// Puts certificates on the list.
pub(crate) fn revoke(args: &RevokeArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let ca = load_authority(&args.ca)?;
    let serials = match (&args.what.name, &args.what.serial, &args.what.cert) {
        (Some(name), _, _) => named(&args.ca, ca.cert_pem(), name)?,
        (None, Some(serial), _) => vec![serial.clone()],
        (None, None, Some(path)) => vec![of_file(path, ca.cert_pem())?],
        // The command line is refused without any of them.
        (None, None, None) => vec![],
    };
    let mut list = read(&args.ca, &ca)?;
    let now = SystemTime::now();
    for serial in serials {
        let new = list.revoke(serial.clone(), now);
        eprintln!("{} {serial}.", if new { "Revoked" } else { "Was revoked already:" });
    }
    publish(&args.ca, &ca, &mut list, RevocationList::LIFE, out)
}

/// Signs the list anew, as it is.
pub(crate) fn renew(args: &CrlArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let ca = load_authority(&args.ca)?;
    let mut list = read(&args.ca, &ca)?;
    publish(&args.ca, &ca, &mut list, DAY * args.days, out)
}

fn read(authority: &Path, ca: &Ca) -> Result<RevocationList, Failure> {
    let path = authority.join(LIST);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(RevocationList::default()),
        Err(error) => return Err(Failure::from(anyhow!(error).context(format!("cannot read {}", path.display())))),
    };
    let list = RevocationList::from_pem(&text, ca.cert_pem());
    list.with_context(|| format!("{} cannot be used", path.display())).map_err(|error| {
        Failure::new(
            error,
            "put back the list as it was: the hosts have copies of it. Without it, who was revoked is not",
        )
    })
}

fn publish(
    authority: &Path,
    ca: &Ca,
    list: &mut RevocationList,
    life: Duration,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let path = authority.join(LIST);
    let pem = ca.sign_list(list, life)?;
    RevocationList::save(&pem, &path).with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(out, "{}", path.display())?;
    let until = OffsetDateTime::from(SystemTime::now() + life).date();
    let count = list.len();
    eprintln!("The list names {count} certificate{} and ends on {until}.", if count == 1 { "" } else { "s" });
    eprintln!("next: bring it to each agent's host, as tunnel.crl there says; it is taken up within seconds");
    eprintln!("      and before {until}: agentctl pki crl --ca {}, and bring it again", authority.display());
    Ok(Exit::Ok)
}

/// The certificates that were issued to somebody.
fn named(authority: &Path, ca_pem: &str, name: &HostId) -> Result<Vec<Serial>, Failure> {
    let dir = authority.join(ISSUED);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(error),
    };
    let mut serials = Vec::new();
    for entry in entries.with_context(|| format!("cannot look into {}", dir.display()))? {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "crt") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let info = CertificateInfo::from_pem(&text).with_context(|| format!("{} cannot be used", path.display()))?;
        if info.role.name == *name {
            serials.push(of_file(&path, ca_pem)?);
        }
    }
    if serials.is_empty() {
        return Err(Failure::new(
            anyhow!("no certificate of {name} is in {}", dir.display()),
            "certificates that were issued elsewhere, or by an older agentctl, are revoked with --cert or --serial",
        ));
    }
    Ok(serials)
}

fn of_file(path: &PathBuf, ca_pem: &str) -> Result<Serial, Failure> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Serial::of(&text, ca_pem).with_context(|| format!("the certificate {} cannot be used", path.display()))?)
}

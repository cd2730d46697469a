//! `agentctl pki revoke` and `agentctl pki crl`: the authority's list of revoked certificates, `crl.pem` in its directory.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use authority::{Authority, issued};
use model::HostId;
use pki::{Ca, RevocationList, Serial};
use time::OffsetDateTime;

use crate::cli::{CrlArgs, RevokeArgs};
use crate::exit::{Exit, Failure};
use crate::pki_command::load_authority;

const DAY: Duration = Duration::from_secs(86_400);

/// Puts certificates on the list.
pub(crate) fn revoke(args: &RevokeArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    refuse_agents(&args.ca)?;
    let ca = load_authority(&args.ca)?;
    let serials = match (&args.what.name, &args.what.serial, &args.what.cert) {
        (Some(name), _, _) => named(&args.ca, ca.cert_pem(), name)?,
        (None, Some(serial), _) => vec![serial.clone()],
        (None, None, Some(path)) => vec![of_file(path, ca.cert_pem())?],
        // The command line is refused without any of them.
        (None, None, None) => vec![],
    };
    let mut list = list_of(&args.ca, &ca)?;
    let now = SystemTime::now();
    for serial in serials {
        let new = list.revoke(serial.clone(), now);
        eprintln!("{} {serial}.", if new { "Revoked" } else { "Was revoked already:" });
    }
    publish(&args.ca, &ca, &mut list, RevocationList::LIFE, out)
}

/// Signs the list anew, as it is.
pub(crate) fn renew(args: &CrlArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    refuse_agents(&args.ca)?;
    let ca = load_authority(&args.ca)?;
    let mut list = list_of(&args.ca, &ca)?;
    publish(&args.ca, &ca, &mut list, DAY * args.days, out)
}

/// The agent of an edge has its list in memory too, and would undo what is done behind its back.
fn refuse_agents(authority: &Path) -> Result<(), Failure> {
    if Authority::is_at(authority) {
        let error = anyhow!("{} is the authority of an edge, whose agent signs its list", authority.display());
        return Err(Failure::new(error, "on the edge: sudo agentctl identity revoke NAME"));
    }
    Ok(())
}

fn list_of(authority: &Path, ca: &Ca) -> Result<RevocationList, Failure> {
    let next = "put back the list as it was: the hosts have copies of it";
    issued::list(authority, ca).map_err(|error| Failure::new(error, next))
}

fn publish(
    authority: &Path,
    ca: &Ca,
    list: &mut RevocationList,
    life: Duration,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let path = authority.join(issued::LIST);
    let pem = ca.sign_list(list, SystemTime::now(), life)?;
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
    let all = issued::all(authority, ca_pem, &RevocationList::default())?;
    let serials: Vec<Serial> =
        all.into_iter().filter(|issued| issued.holder.name == *name).map(|issued| issued.serial).collect();
    if serials.is_empty() {
        return Err(Failure::new(
            anyhow!("no certificate of {name} is in {}", authority.join(issued::ISSUED).display()),
            "certificates that were issued elsewhere, or by an older agentctl, are revoked with --cert or --serial",
        ));
    }
    Ok(serials)
}

fn of_file(path: &PathBuf, ca_pem: &str) -> Result<Serial, Failure> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Serial::of(&text, ca_pem).with_context(|| format!("the certificate {} cannot be used", path.display()))?)
}

//! `agentctl device`: phones and laptops with a stock OpenVPN client, by the agent that has the authority.

use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use anyhow::anyhow;
use control::{Inspector, InspectorError};
use model::{DeviceGrant, DeviceQuery};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use secrecy::{ExposeSecret, SecretString};

use crate::ask::{ask, explain};
use crate::cli::{DeviceCommand, DeviceProfileArgs};
use crate::exit::{Exit, Failure};
use crate::new_file::NewFile;
use crate::render::{Colour, devices};

/// Runs the command.
pub(crate) fn run(command: &DeviceCommand, colour: Colour, out: &mut dyn Write) -> Result<Exit, Failure> {
    match command {
        DeviceCommand::Add(args) => {
            let grant = granted(args, async |agent, query| agent.add_device(query).await, out)?;
            eprintln!("{} is in, until {}.", args.name, devices::date(grant.not_after));
            reach(&grant, args.full);
        }
        DeviceCommand::Reissue(args) => {
            let grant = granted(args, async |agent, query| agent.reissue_device(query).await, out)?;
            eprintln!("{} has another profile, until {}.", args.name, devices::date(grant.not_after));
            if grant.revoked > 0 {
                eprintln!("The one before counts no more: the device is out until it has the new one.");
            }
            reach(&grant, args.full);
        }
        DeviceCommand::List(args) => {
            let listed = answer(args.socket.as_deref(), async |agent| agent.devices().await)?;
            if args.json {
                serde_json::to_writer_pretty(&mut *out, &listed).map_err(io::Error::from)?;
                writeln!(out)?;
            } else {
                out.write_all(devices::render(&listed, colour, SystemTime::now()).as_bytes())?;
            }
        }
        DeviceCommand::Revoke(args) => {
            match answer(args.socket.as_deref(), async |agent| agent.revoke_device(&args.name).await)? {
                0 => eprintln!("{} was revoked already.", args.name),
                _ => eprintln!("Revoked {}. It is out within seconds, and gets in no more.", args.name),
            }
        }
    }
    Ok(Exit::Ok)
}

/// Tells what the device gets to, and what its profile expects in vain.
fn reach(grant: &DeviceGrant, full: bool) {
    let where_to = "devices.reach in the edge's configuration says what a device may reach";
    if grant.reach.is_empty() {
        eprintln!("It reaches nothing but the edge's end of the tunnel: {where_to}.");
    } else {
        eprintln!("It may reach: {}.", grant.reach.join(", "));
    }
    if full && !grant.reach.iter().any(|word| word == "internet") {
        eprintln!("All of its traffic goes to the edge, which does not let it on to the internet: {where_to}.");
    }
}

/// Asks the agent of the edge.
fn answer<T>(
    socket: Option<&Path>,
    question: impl AsyncFnOnce(&mut Inspector) -> Result<T, InspectorError>,
) -> Result<T, Failure> {
    ask(socket, async |agent| Ok(question(agent).await))?.map_err(|error| match error {
        // It says itself what to do.
        InspectorError::Refused(reason) => Failure::from(anyhow!(reason)),
        InspectorError::Unknown => {
            Failure::new(anyhow!("this agent has no devices"), "run it on the edge, with the agent of the same release")
        }
        error => explain("the agent", error),
    })
}

/// Has a profile made and hands it over. Where it is to go is made ready first, since the agent shows it only once.
fn granted(
    args: &DeviceProfileArgs,
    question: impl AsyncFnOnce(&mut Inspector, DeviceQuery) -> Result<DeviceGrant, InspectorError>,
    out: &mut dyn Write,
) -> Result<DeviceGrant, Failure> {
    let file = args.out.as_deref().map(NewFile::begin).transpose().map_err(|error| {
        Failure::new(error, "name a file that does not exist yet, in a directory that you may write to")
    })?;
    let query =
        DeviceQuery { name: args.name.clone(), remotes: args.remotes.clone(), full: args.full, dns: args.dns.clone() };
    let grant = answer(args.socket.as_deref(), async |agent| question(agent, query).await)?;
    let kept = match file {
        Some(file) => file.finish(grant.profile.expose_secret().as_bytes()).map(Some),
        None => Ok(None),
    };
    let path = kept.map_err(|error| {
        let next = format!("the profile is lost: `agentctl device reissue {}` makes another", args.name);
        Failure::new(error, next)
    })?;
    let code = if args.qr { drawn(&grant.profile) } else { None };
    match (&code, &path) {
        (Some(code), _) => writeln!(out, "{code}")?,
        (None, Some(path)) => writeln!(out, "{}", path.display())?,
        (None, None) => out.write_all(grant.profile.expose_secret().as_bytes())?,
    }
    match &code {
        Some(_) => {
            eprintln!("Scan it with an app that saves text as a file: OpenVPN clients scan no profiles themselves.");
        }
        None if args.qr => eprintln!("The profile has more than fits into a QR code: bring the file to the device."),
        None => {}
    }
    eprintln!("It holds the device's private key: let nobody else see it, and keep no copy here.");
    Ok(grant)
}

/// For a terminal; none where it is too long. At the lowest level of correction: a screen is not scratched.
fn drawn(profile: &SecretString) -> Option<String> {
    let code = QrCode::with_error_correction_level(profile.expose_secret(), EcLevel::L).ok()?;
    // Dark on light, whatever the terminal's colours are.
    let drawn = code.render::<Dense1x2>().build();
    Some(drawn.lines().map(|line| format!("\x1b[30;107m{line}\x1b[0m\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_drawn_and_what_does_not_is_told() {
        let code = drawn(&"x".repeat(2_953).into()).unwrap();
        let lines: Vec<&str> = code.lines().collect();
        assert_eq!(lines.len(), 93);
        assert!(lines.iter().all(|line| line.chars().count() == 185 + "\x1b[30;107m\x1b[0m".len()), "{}", lines[0]);
        assert!(drawn(&"x".repeat(2_954).into()).is_none());
    }
}

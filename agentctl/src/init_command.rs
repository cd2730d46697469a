//! `agentctl init`: this host becomes the edge.

use std::io::Write;

use ::setup::{AnswerFile, Edge, EdgeAnswers, Existing, Offer, Paths, Record};
use anyhow::anyhow;
use model::{Finding, Grade, Hostname, JoinCodeInfo};
use secrecy::ExposeSecret;
use serde::Serialize;

use crate::ask::runtime;
use crate::cli::EdgeInitArgs;
use crate::exit::{Exit, Failure};
use crate::setup_command::{
    agreed, answers, asked, bad_answer, be_root, failed, file_for_agent, has_person, json, line, mail, ready, say, show,
};

/// What it prints as JSON.
#[derive(Serialize)]
struct Outcome<'a> {
    domain: &'a Hostname,
    findings: &'a [Finding],
    records: &'a [Record],
    changed: bool,
    code: Option<&'a str>,
    code_info: Option<&'a JoinCodeInfo>,
}

/// Asks what is not said, looks, asks whether to go on, sets up, and prints the join code.
pub(crate) fn run(args: &EdgeInitArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    be_root("init --domain example.com --email me@example.com")?;
    let paths = Paths::default();
    let mut answered = edge_answers(args, answers(&args.setup)?, Existing::read(&paths).map_err(failed)?)?;
    let runtime = runtime()?;

    say("Looking at this host and at the DNS ...");
    let (mut findings, mut records) = runtime.block_on(Edge::new(paths.clone(), answered.clone()).look());
    show(&findings);
    while has_person(&args.setup) && only_dns_is_bad(&findings) {
        let answer = line(
            "\nSet these records at your DNS provider, then press Enter to look again (or type \"later\" to go on without): ",
        )?;
        answered.dns_later = answer.eq_ignore_ascii_case("later");
        (findings, records) = runtime.block_on(Edge::new(paths.clone(), answered.clone()).look());
        show(&findings);
    }
    let edge = Edge::new(paths, answered.clone());
    let outcome = |changed, offer: Option<&Offer>, out: &mut dyn Write| -> Result<(), Failure> {
        let code = offer.map(|offer| offer.code.expose_secret());
        if args.setup.json {
            let (findings, records) = (&findings[..], &records[..]);
            let code_info = offer.map(|offer| &offer.info);
            json(out, &Outcome { domain: &answered.domain, findings, records, changed, code, code_info })?;
        } else if let Some(code) = code {
            writeln!(out, "{code}")?;
        }
        Ok(())
    };
    if let Err(failure) = ready(&findings) {
        outcome(false, None, out)?;
        return Err(failure);
    }
    if !agreed(&edge.plan(), &args.setup)? {
        outcome(false, None, out)?;
        return Ok(Exit::Ok);
    }
    say("");
    runtime.block_on(edge.set_up(&mut |step| say(&format!("  done  {step}")))).map_err(failed)?;
    let offer = runtime.block_on(edge.offer(authority::DEFAULT_LIFE)).map_err(failed)?;
    if !args.setup.json {
        tell(&answered, &records, offer.as_ref());
    }
    outcome(true, offer.as_ref(), out)?;
    Ok(Exit::Ok)
}

/// Flags, then the answer file, then what is there, then questions.
fn edge_answers(args: &EdgeInitArgs, file: AnswerFile, existing: Option<Existing>) -> Result<EdgeAnswers, Failure> {
    let said = |what: &str, text: String| -> Result<Hostname, Failure> {
        text.parse().map_err(|error| bad_answer(format!("{what} {text:?}: {error}")))
    };
    let in_file = file.domain.map(|domain| said("domain", domain)).transpose()?;
    let domain = args.domain.clone().or(in_file);
    let in_file = file.address.map(|address| ::setup::reachable_ipv4(&address.to_string())).transpose();
    let in_file = in_file.map_err(bad_answer)?;
    let email = args.email.clone().or(file.email);
    let (mut acme_directory, mut acme_api_root) =
        (file.acme_directory, file.acme_api_root.map(file_for_agent).transpose()?);
    let (domain, email, blog) = match existing {
        Some(existing) => {
            if let Some(domain) = domain.filter(|domain| *domain != existing.domain) {
                return Err(Failure::new(
                    anyhow!("this host is the edge of {} already, not of {domain}", existing.domain),
                    "change /etc/cloudathome/edge.toml, then `sudo agentctl config reload`; or `sudo agentctl leave` first",
                ));
            }
            say(&format!("This host is set up for {} already: what is left to be done is done now.", existing.domain));
            acme_directory = existing.acme_directory;
            acme_api_root = existing.acme_api_root;
            (existing.domain, existing.email.unwrap_or_default(), existing.blog)
        }
        None => {
            let domain = match domain {
                Some(domain) => domain,
                None => asked("Your domain, as in example.com: ", "--domain", |text| {
                    text.parse().map_err(|error| format!("{text:?}: {error}"))
                })?,
            };
            let email = match email {
                Some(email) => mail_address(&email).map_err(bad_answer)?,
                None => asked("Your mail address, for certificate authorities: ", "--email", mail_address)?,
            };
            (domain, email, !args.no_blog && file.blog.unwrap_or(true))
        }
    };
    Ok(EdgeAnswers {
        domain,
        email,
        blog,
        address: args.address.or(in_file),
        dns_later: args.dns_later || file.dns_later.unwrap_or_default(),
        acme_directory,
        acme_api_root,
        acme_issuer_root: file.acme_issuer_root.map(file_for_agent).transpose()?,
        mail: mail(file.mail)?,
    })
}

/// As certificate authorities take it.
fn mail_address(text: &str) -> Result<String, String> {
    let is_plain = text.chars().all(|c| c.is_ascii_graphic());
    let has_parts = text.split_once('@').is_some_and(|(user, host)| {
        !user.is_empty() && host.contains('.') && !host.contains('@') && !host.starts_with('.') && !host.ends_with('.')
    });
    if is_plain && has_parts {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not a mail address, as in me@example.com"))
    }
}

fn only_dns_is_bad(findings: &[Finding]) -> bool {
    let mut bad = findings.iter().filter(|finding| finding.grade == Grade::Bad).peekable();
    bad.peek().is_some() && bad.all(|finding| finding.check == "DNS")
}

/// What a person does next.
fn tell(answers: &EdgeAnswers, records: &[Record], offer: Option<&Offer>) {
    if records.iter().any(|record| !record.right) {
        say("\nThese DNS records are still to be set; until then there are no certificates:");
        for record in records.iter().filter(|record| !record.right) {
            say(&format!("  {:<30} {:<5} {}", record.name, record.kind.as_str(), record.value));
        }
    }
    if answers.blog {
        say(&format!(
            "\nGhost is being set up at https://{}: `sudo agentctl status` tells how it goes.",
            answers.domain
        ));
    }
    match offer {
        None => say("\nHome is connected. Another one takes its place by a code: `sudo agentctl code new`."),
        Some(offer) => {
            let edge = if offer.carries_address { "" } else { " --edge THIS-HOST'S-ADDRESS" };
            say(&format!(
                "\nAt home, within an hour: `sudo agentctl join{edge}`. It asks for this join code, which can be used once:\n"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(line: &str) -> EdgeInitArgs {
        let cli = Cli::try_parse_from(format!("agentctl init {line}").split_whitespace()).unwrap();
        let Command::Init(args) = cli.command else { panic!("{line}") };
        args
    }

    #[test]
    fn flags_come_before_the_file_and_the_file_before_defaults() {
        let file = AnswerFile {
            domain: Some("file.example".into()),
            email: Some("file@example.com".into()),
            blog: Some(false),
            ..AnswerFile::default()
        };
        let answers = edge_answers(&args("--domain flag.example"), file.clone(), None).unwrap();
        assert_eq!(
            (answers.domain.as_str(), answers.email.as_str(), answers.blog),
            ("flag.example", "file@example.com", false)
        );
        let flags = args("--domain flag.example --email flag@example.com");
        assert!(edge_answers(&flags, AnswerFile::default(), None).unwrap().blog);
        for wrong in ["no domain", "-x.example", ""] {
            let file = AnswerFile { domain: Some(wrong.into()), ..file.clone() };
            assert_eq!(edge_answers(&args(""), file, None).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn an_edge_keeps_its_domain() {
        let existing = || {
            Some(Existing {
                domain: "old.example".parse().unwrap(),
                email: None,
                blog: true,
                acme_directory: Some("https://acme.example/dir".into()),
                acme_api_root: None,
            })
        };
        let same = edge_answers(&args("--no-blog"), AnswerFile::default(), existing()).unwrap();
        assert!(same.blog && same.domain.as_str() == "old.example");
        assert_eq!(same.acme_directory.as_deref(), Some("https://acme.example/dir"));
        let other = edge_answers(&args("--domain new.example"), AnswerFile::default(), existing()).unwrap_err();
        assert!(other.to_string().contains("the edge of old.example already"), "{other}");
    }

    #[test]
    fn mail_addresses_are_looked_at() {
        assert!(mail_address("me@example.com").is_ok());
        for wrong in
            ["", "me", "@example.com", "me@example", "me@a.b@c.d", "m e@example.com", "me@.com", "me@example.com\u{1b}"]
        {
            assert!(mail_address(wrong).is_err(), "{wrong:?}");
        }
    }
}

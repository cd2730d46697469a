//! `agentctl join`: this host becomes the home of an edge.

use std::io::{IsTerminal, Read, Write, stdin};
use std::time::Duration;

use ::setup::{Home, HomeAnswers, Paths};
use anyhow::anyhow;
use authority::code::JoinCode;
use control::Inspector;
use model::{Finding, Role, ServiceStatus, Serving};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::ask::runtime;
use crate::cli::JoinArgs;
use crate::exit::{Exit, Failure};
use crate::setup_command::{agreed, answers, asked, be_root, failed, file_for_agent, json, mail, ready, say, show};

/// Longest text that is looked at for a code, bytes.
const MAX_CODE: u64 = 4096;
/// Until images are fetched, Nextcloud is installed and certificates are there, by a slow line.
const SERVING: Duration = Duration::from_secs(30 * 60);
/// So many looks at a connected home that has no services are enough: it is to have none.
const NO_SERVICES: u32 = 5;
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// What it prints as JSON.
#[derive(Serialize)]
struct Outcome<'a> {
    findings: &'a [Finding],
    changed: bool,
    services: &'a [ServiceStatus],
}

/// Looks, asks for the code, joins, starts, and waits until the services are there.
pub(crate) fn run(args: &JoinArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    be_root("join")?;
    let paths = Paths::default();
    let home = Home::new(paths.clone(), home_answers(args)?);
    let runtime = runtime()?;

    say("Looking at this host ...");
    let mut findings = runtime.block_on(home.look());
    let outcome = |findings: &[Finding], changed, services: &[ServiceStatus], out: &mut dyn Write| match args.setup.json
    {
        true => json(out, &Outcome { findings, changed, services }),
        false => Ok(()),
    };
    let stopped = |findings: &[Finding], out: &mut dyn Write| -> Result<(), Failure> {
        ready(findings).or_else(|failure| outcome(findings, false, &[], out).and(Err(failure)))
    };
    show(&findings);
    stopped(&findings, out)?;
    let code = if home.has_joined() {
        say("\nThis host has joined already: what is left to be done is done now. (`sudo agentctl leave` undoes it.)");
        None
    } else {
        let code = code()?;
        let there = runtime.block_on(home.look_there(&code)).map_err(failed)?;
        show(&there);
        findings.extend(there);
        stopped(&findings, out)?;
        Some(code)
    };
    let plan =
        if code.is_some() { home.plan() } else { vec!["start cloudathome-home now and with this host".to_owned()] };
    if !agreed(&plan, &args.setup)? {
        outcome(&findings, false, &[], out)?;
        return Ok(Exit::Ok);
    }
    say("");
    let services = runtime.block_on(async {
        let done = &mut |step: &str| say(&format!("  done  {step}"));
        if let Some(code) = &code {
            home.join(code, done).await.map_err(failed)?;
        }
        home.start(done).await.map_err(failed)?;
        if args.no_wait { Ok(None) } else { served(&paths).await.map(Some) }
    })?;
    let Some(services) = services else {
        say("\nThe services are being set up: `sudo agentctl status` tells how it goes.");
        outcome(&findings, true, &[], out)?;
        return Ok(Exit::Ok);
    };
    tell(&services);
    outcome(&findings, true, &services, out)?;
    Ok(if services.iter().all(|service| service.serving == Serving::Yes) { Exit::Ok } else { Exit::Unwell })
}

fn home_answers(args: &JoinArgs) -> Result<HomeAnswers, Failure> {
    let file = answers(&args.setup)?;
    let in_file = file.edge.map(|edge| ::setup::remote(&edge)).transpose();
    let in_file = in_file.map_err(|wrong| Failure {
        exit: Exit::Usage,
        error: anyhow!("edge in the answer file: {wrong}"),
        hint: Some("correct it; nothing was changed".to_owned()),
    })?;
    Ok(HomeAnswers {
        edge: args.edge.clone().or(in_file),
        no_nextcloud: args.no_nextcloud || !file.nextcloud.unwrap_or(true),
        issuer_root: file.acme_issuer_root.map(file_for_agent).transpose()?,
        mail: mail(file.mail)?,
    })
}

/// The code, by the terminal or standard input: an argument would be seen by everybody on this host.
fn code() -> Result<JoinCode, Failure> {
    let wrong = |error| format!("this is no join code: {error}");
    if stdin().is_terminal() {
        return asked("\nThe join code that `agentctl init` printed on the edge: ", "the join code", |text| {
            JoinCode::parse(text).map_err(wrong)
        });
    }
    let mut text = String::new();
    stdin().take(MAX_CODE).read_to_string(&mut text)?;
    JoinCode::parse(&text).map_err(|error| Failure {
        exit: Exit::Usage,
        error: anyhow!(wrong(error)),
        hint: Some("give the code on standard input, or run this in a terminal; nothing was changed".to_owned()),
    })
}

/// Waits until each of home's services is proven to serve, and says what it waits for. At the end of its patience it gives back what it
/// saw last; when the edge or the agent was not got to until then, that is a failure.
async fn served(paths: &Paths) -> Result<Vec<ServiceStatus>, Failure> {
    say("\nWaiting until the services answer at their public names. Ctrl-C only ends the waiting.");
    let until = Instant::now() + SERVING;
    let (mut told, mut without) = (String::new(), 0);
    loop {
        let asked = async {
            let mut agent = Inspector::connect(&paths.socket(Role::Home)).await?;
            agent.status().await
        };
        let (waits_for, services) = match asked.await {
            Ok((local, _)) if local.control.peer.is_none() => ("waits for the edge".to_owned(), None),
            Ok((local, _)) => (waits_for(&local.services), Some(local.services)),
            Err(error) => (format!("waits for the agent: {error}"), None),
        };
        let is_late = Instant::now() > until;
        match services {
            Some(services) if is_late || (waits_for.is_empty() && !services.is_empty()) => return Ok(services),
            Some(services) if services.is_empty() => without += 1,
            None if is_late => {
                return Err(Failure {
                    exit: Exit::Unreachable,
                    error: anyhow!("this host has joined, and after {} min still {waits_for}", SERVING.as_secs() / 60),
                    hint: Some("sudo agentctl status".to_owned()),
                });
            }
            _ => {}
        }
        if without > NO_SERVICES {
            return Ok(Vec::new());
        }
        if waits_for != told && !waits_for.is_empty() {
            say(&format!("  {waits_for}"));
            told = waits_for;
        }
        sleep(LOOK).await;
    }
}

/// What the services are still in want of; nothing when all serve.
fn waits_for(services: &[ServiceStatus]) -> String {
    let lacks = services.iter().filter(|service| service.serving != Serving::Yes).map(|service| {
        let reason = service.health.reason().or(service.serving.reason()).unwrap_or("is being set up");
        format!("{}: {reason}", service.name)
    });
    lacks.collect::<Vec<_>>().join("; ")
}

/// What a person does next.
fn tell(services: &[ServiceStatus]) {
    say("");
    for service in services {
        let name = service.hostname.as_ref().map(|hostname| format!("https://{hostname}")).unwrap_or_default();
        let is = if service.serving == Serving::Yes { "serves" } else { "does not serve yet" };
        say(&format!("{} {is}: {name}", service.name));
    }
    if services.iter().any(|service| service.name.as_str() == "nextcloud") {
        say("\nWhere to log in, and with what: `sudo agentctl service nextcloud credentials`.");
    }
    say("How both hosts are: `sudo agentctl status`.");
}

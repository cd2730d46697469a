//! A fake operator: it makes answers up, where a real agent would act on containers.
#![allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part")]

use control::{Doctor, Operator, Outputs, Steps};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use model::{Credential, ExecInput, ExecQuery, Finding, Grade, LogsQuery, Output, Refusal, RunCommand, ServiceName};
use tokio::sync::mpsc;

/// Finds this.
pub(crate) struct FakeDoctor(pub(crate) Grade);

impl Doctor for FakeDoctor {
    fn examine(&self) -> BoxFuture<'static, Vec<Finding>> {
        let finding = Finding {
            check: "disk".into(),
            grade: self.0,
            text: "0.2 GiB are free".into(),
            next: Some("make room".into()),
        };
        Box::pin(async move { vec![finding] })
    }
}

/// Knows the service `nextcloud`.
pub(crate) struct FakeOperator;

fn known(service: &ServiceName) -> Result<(), Refusal> {
    if service.as_str() == "nextcloud" { Ok(()) } else { Err(Refusal::NotFound(format!("no service {service} here"))) }
}

fn said(service: &ServiceName, steps: &[String], end: Option<Refusal>) -> Steps {
    let mut all: Vec<Result<String, Refusal>> = match known(service) {
        Ok(()) => steps.iter().cloned().map(Ok).collect(),
        Err(refusal) => return stream::iter([Err(refusal)]).boxed(),
    };
    all.extend(end.map(Err));
    stream::iter(all).boxed()
}

impl Operator for FakeOperator {
    fn run(&self, service: ServiceName, command: RunCommand) -> Steps {
        said(&service, &[format!("{command:?}")], None)
    }

    fn logs(&self, query: LogsQuery) -> Outputs {
        let bytes = format!("{} lines of {:?}\n", query.tail, query.container).into_bytes();
        stream::iter([Ok(Output::Stdout { container: "nextcloud".into(), bytes })]).boxed()
    }

    /// Says its command, its user and its input, and ends with 7.
    fn exec(&self, query: ExecQuery, mut input: mpsc::Receiver<ExecInput>) -> Outputs {
        let whole = async move {
            let mut read = Vec::new();
            while let Some(part) = input.recv().await {
                match part {
                    ExecInput::Stdin(bytes) => read.extend(bytes),
                    ExecInput::Eof => break,
                    ExecInput::Size(_) => {}
                }
            }
            let mut bytes = format!("{} {:?} {:?} ", query.admin, query.user, query.command).into_bytes();
            bytes.extend(read);
            Ok(Output::Stdout { container: String::new(), bytes })
        };
        stream::once(whole).chain(stream::iter([Ok(Output::Ended(7))])).boxed()
    }

    fn credentials(&self, service: ServiceName) -> BoxFuture<'static, Result<Vec<Credential>, Refusal>> {
        Box::pin(async move {
            known(&service)?;
            Ok(vec![Credential { label: "password".into(), value: "geheim".into() }])
        })
    }

    fn upgrade(&self, service: ServiceName, to: String) -> Steps {
        if to.is_empty() {
            return said(&service, &["nextcloud runs nextcloud:32.0.1".to_owned()], None);
        }
        let end = Refusal::Failed(format!("{to} did not get healthy; 32.0.1 is back"));
        said(&service, &["saving".to_owned(), "starting".to_owned()], Some(end))
    }

    fn rollback(&self, service: ServiceName) -> Steps {
        said(&service, &["back".to_owned()], None)
    }

    fn purge(&self, service: ServiceName) -> Steps {
        said(&service, &["gone".to_owned()], None)
    }
}

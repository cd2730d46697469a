//! The configuration of an agent, for `agentctl`, whose own host it is: nothing in it is bounded but by the message.

use model::{ConfigChange, ConfigReport};

use crate::v1;

impl From<ConfigReport> for v1::ConfigReport {
    fn from(report: ConfigReport) -> Self {
        Self {
            file: report.file,
            in_force: report.in_force.into_iter().collect(),
            changes: report.changes.into_iter().map(Into::into).collect(),
            fault: report.fault,
            refused: report.refused,
        }
    }
}

impl From<v1::ConfigReport> for ConfigReport {
    fn from(wire: v1::ConfigReport) -> Self {
        Self {
            file: wire.file,
            in_force: wire.in_force.into_iter().collect(),
            changes: wire.changes.into_iter().map(Into::into).collect(),
            fault: wire.fault,
            refused: wire.refused,
        }
    }
}

impl From<ConfigChange> for v1::ConfigChange {
    fn from(change: ConfigChange) -> Self {
        let ConfigChange { key, from, to, needs_restart } = change;
        Self { key, from, to, needs_restart }
    }
}

impl From<v1::ConfigChange> for ConfigChange {
    fn from(wire: v1::ConfigChange) -> Self {
        let v1::ConfigChange { key, from, to, needs_restart } = wire;
        Self { key, from, to, needs_restart }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_back_as_it_was() {
        let change =
            ConfigChange { key: "domain".into(), from: Some("\"a.test\"".into()), to: None, needs_restart: true };
        let report = ConfigReport {
            file: "/etc/cloudathome/edge.toml".into(),
            in_force: [("domain".to_owned(), "\"a.test\"".to_owned())].into(),
            changes: vec![change],
            fault: Some("no such file".into()),
            refused: None,
        };
        assert_eq!(ConfigReport::from(v1::ConfigReport::from(report.clone())), report);
    }
}

//! Metrics as Prometheus reads them, in its classic text format and in OpenMetrics.
//!
//! Prometheus asks for OpenMetrics; `promtool check metrics` and many smaller readers know the classic format only, and client
//! libraries write one of the two. The two name a counter, or what only informs, differently in what they say about it, and the same in its samples.

use std::fmt::Write as _;

/// Its content type.
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Its content type.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Units that a name ends with.
const UNITS: [&str; 2] = ["bytes", "seconds"];

/// Labels with their values.
pub type Labels = Vec<(&'static str, String)>;

/// A metric with its samples. Its name says what it is: a counter ends with `_total`, what only informs with `_info`, and
/// everything else is a gauge.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// The name of its samples, as in `cloudathome_tunnel_sent_bytes_total`: letters, digits and `_`.
    pub name: &'static str,
    /// What it is, in one line.
    pub help: &'static str,
    /// No labels twice.
    pub samples: Vec<(Labels, f64)>,
}

/// How a page is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The text format 0.0.4, which everything reads.
    Classic,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format for a reader that accepts this: OpenMetrics is given to those who name it.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Classic }
    }

    /// Its content type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => CLASSIC,
            Self::OpenMetrics => OPEN_METRICS,
        }
    }

    /// The page with these metrics.
    #[must_use]
    pub fn page(self, families: &[Family]) -> String {
        let mut page = String::new();
        for family in families {
            self.family(&mut page, family);
        }
        if self == Self::OpenMetrics {
            page.push_str("# EOF\n");
        }
        page
    }

    fn family(self, page: &mut String, Family { name, help, samples }: &Family) {
        let (described, kind) = match (self, name.strip_suffix("_total"), name.strip_suffix("_info")) {
            (Self::Classic, Some(_), _) => (*name, "counter"),
            (Self::OpenMetrics, Some(bare), _) => (bare, "counter"),
            (Self::OpenMetrics, _, Some(bare)) => (bare, "info"),
            _ => (*name, "gauge"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(page, "# HELP {described} {help}\n# TYPE {described} {kind}");
        let unit = UNITS.into_iter().find(|unit| described.ends_with(unit));
        if let (Self::OpenMetrics, Some(unit)) = (self, unit) {
            let _ = writeln!(page, "# UNIT {described} {unit}");
        }
        for (labels, value) in samples {
            let labels: Vec<String> =
                labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
            let _ = writeln!(page, "{name}{{{}}} {value}", labels.join(","));
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Vec<Family> {
        let of = |peer: &str| vec![("host", "vps".to_owned()), ("peer", peer.to_owned())];
        vec![
            Family { name: "a_sent_bytes_total", help: "Sent", samples: vec![(of("phone"), 17.0)] },
            Family { name: "a_agent_info", help: "The agent", samples: vec![(of("\"a\\b\nc"), 1.0)] },
            Family { name: "a_round_trip_seconds", help: "There and back", samples: vec![(vec![], 0.02134)] },
            Family { name: "a_peers", help: "Peers", samples: vec![] },
        ]
    }

    #[test]
    fn both_formats_have_the_same_samples() {
        let classic = "\
# HELP a_sent_bytes_total Sent
# TYPE a_sent_bytes_total counter
a_sent_bytes_total{host=\"vps\",peer=\"phone\"} 17
# HELP a_agent_info The agent
# TYPE a_agent_info gauge
a_agent_info{host=\"vps\",peer=\"\\\"a\\\\b\\nc\"} 1
# HELP a_round_trip_seconds There and back
# TYPE a_round_trip_seconds gauge
a_round_trip_seconds{} 0.02134
# HELP a_peers Peers
# TYPE a_peers gauge
";
        assert_eq!(Format::Classic.page(&families()), classic);
        let open = classic
            .replace("# HELP a_sent_bytes_total", "# HELP a_sent_bytes")
            .replace("# TYPE a_sent_bytes_total counter", "# TYPE a_sent_bytes counter\n# UNIT a_sent_bytes bytes")
            .replace("# HELP a_agent_info", "# HELP a_agent")
            .replace("# TYPE a_agent_info gauge", "# TYPE a_agent info")
            .replace("_trip_seconds gauge", "_trip_seconds gauge\n# UNIT a_round_trip_seconds seconds");
        assert_eq!(Format::OpenMetrics.page(&families()), format!("{open}# EOF\n"));
    }

    #[test]
    fn the_reader_chooses() {
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::accepted("*/*"), Format::Classic);
        assert_eq!(Format::accepted(""), Format::Classic);
    }
}

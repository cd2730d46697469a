//! `agentctl code`.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{AskArgs, examples};

#[derive(Debug, Subcommand)]
pub(crate) enum CodeCommand {
    /// Makes a join code, which lets one home in, once
    ///
    /// The home that joins by it takes the place of the one before, whose identity counts no more from then on.
    #[command(after_help = examples(&[
        ("sudo agentctl code new", "good for an hour; the code alone goes to standard output"),
        ("sudo agentctl code new --life 1d", "for somebody who joins tomorrow"),
        ("sudo agentctl code new --json", "JSON for programs: {code, id, home, created, expires, state}"),
    ]))]
    New(NewCodeArgs),
    /// Lists the codes that are open, or have ended within a week; never the codes themselves
    #[command(after_help = examples(&[
        ("sudo agentctl code list", "a table"),
        ("sudo agentctl code list --json", "JSON for programs: a list of {id, home, created, expires, state}"),
    ]))]
    List(AskArgs),
    /// Makes an open code let nobody in
    #[command(after_help = examples(&[("sudo agentctl code revoke 7Q2K", "the one that `agentctl code list` shows as 7Q2K")]))]
    Revoke(RevokeCodeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NewCodeArgs {
    /// How long it is good, from one second to seven days: a number with s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = life)]
    pub(crate) life: Duration,
    /// The public IPv4 address of this host, which the code carries [default: the one it speaks from, if that is public]
    #[arg(long, value_name = "IPV4", value_parser = setup::reachable_ipv4)]
    pub(crate) address: Option<Ipv4Addr>,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeCodeArgs {
    /// The code's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// The agent's socket [default: the one of /run/cloudathome/edge.sock and home.sock that is there]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

/// Reads a time as people write it. Whether a code can live so long, the authority decides.
fn life(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time, as in 30m, 2h or 1d");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let seconds = |text: &str| life(text).ok().map(|life| life.as_secs());
        assert_eq!(["90s", "30m", "2h", "1d"].map(seconds), [90, 1_800, 7_200, 86_400].map(Some));
        for wrong in ["", "1", "h", "1 h", "-1h", "1w", "99999999999999999999d", "18446744073709551615d", "1\u{e9}"] {
            assert_eq!(seconds(wrong), None, "{wrong:?}");
        }
    }
}

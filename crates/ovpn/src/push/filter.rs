//! What of a push is taken at all: the client's own say.

use super::PushError;
use crate::negotiation::printable;

/// What becomes of pushed options that begin with a text (`pull-filter`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullFilter {
    /// What becomes of them.
    pub action: FilterAction,
    /// How they begin; compared with the option without quotes and with single blanks between its words.
    pub prefix: String,
}

/// What becomes of a pushed option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterAction {
    /// It is taken.
    Accept,
    /// It is passed over.
    Ignore,
    /// The connection ends.
    Reject,
}

/// What of a push is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullRules {
    /// The first that fits decides; what none fits is taken.
    pub filters: Vec<PullFilter>,
    /// Routes and name resolution are passed over (`route-nopull`).
    pub route_nopull: bool,
}

/// What `route-nopull` passes over, as stock does: not addresses and not `route-gateway`.
const ROUTES_AND_NAMES: [&str; 9] = [
    "route",
    "route-ipv6",
    "redirect-gateway",
    "redirect-private",
    "block-ipv6",
    "block-outside-dns",
    "register-dns",
    "dhcp-option",
    "dns",
];

impl PullRules {
    /// Whether `option`, its words without quotes and with single blanks between, is taken.
    ///
    /// # Errors
    /// When a filter rejects it.
    pub fn takes(&self, option: &str) -> Result<bool, PushError> {
        let filter = self.filters.iter().find(|filter| option.starts_with(&filter.prefix));
        match filter.map(|filter| filter.action) {
            Some(FilterAction::Reject) => Err(PushError::Rejected(shown(option))),
            Some(FilterAction::Ignore) => Ok(false),
            Some(FilterAction::Accept) | None => {
                let name = option.split_ascii_whitespace().next().unwrap_or_default();
                Ok(!(self.route_nopull && ROUTES_AND_NAMES.contains(&name)))
            }
        }
    }
}

/// An option as it may be shown: a token is a secret, also one that a filter keeps away.
pub(super) fn shown(option: &str) -> String {
    printable(if option.starts_with("auth-token") { "auth-token" } else { option }, 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(action: FilterAction, prefix: &str) -> PullFilter {
        PullFilter { action, prefix: prefix.to_owned() }
    }

    #[test]
    fn the_first_filter_decides() {
        let filters = vec![
            filter(FilterAction::Accept, "route 192.168."),
            filter(FilterAction::Ignore, "route "),
            filter(FilterAction::Reject, "dhcp-option"),
        ];
        let rules = PullRules { filters, route_nopull: false };
        assert_eq!(rules.takes("route 192.168.1.0 255.255.255.0"), Ok(true));
        assert_eq!(rules.takes("route 10.0.0.0 255.0.0.0"), Ok(false));
        assert_eq!(rules.takes("route-gateway 10.8.0.1"), Ok(true));
        assert_eq!(
            rules.takes("dhcp-option DNS 10.8.0.1"),
            Err(PushError::Rejected("dhcp-option DNS 10.8.0.1".to_owned()))
        );
    }

    #[test]
    fn without_routes_and_names() {
        let rules = PullRules { filters: Vec::new(), route_nopull: true };
        for option in ["route 10.0.0.0 255.0.0.0", "redirect-gateway def1", "dns search-domains a", "block-ipv6"] {
            assert_eq!(rules.takes(option), Ok(false), "{option}");
        }
        for option in ["route-gateway 10.8.0.1", "ifconfig 10.8.0.2 255.255.255.0", "routes"] {
            assert_eq!(rules.takes(option), Ok(true), "{option}");
        }
    }
}

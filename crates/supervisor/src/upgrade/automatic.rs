//! Upgrades that begin by themselves: once in each window of a service its registry is asked for tags, and the upgrade to
//! the newest one that its policy permits begins as if a person had asked for it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::{SignedDuration, ZonedDateTime};
use model::ServiceName;
use registry::Client;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::choice::{Policy, choose};
use super::upgrader::Upgradable;
use super::version::retag;
use super::{Effects, UpgradeError, Upgrader, Window};
use crate::chain;

/// The clock is looked at this often: it may be set, and a host may sleep.
const LOOK: Duration = Duration::from_secs(30);
/// What could not be asked for is asked for again after this, while the window lasts.
const AGAIN: SignedDuration = SignedDuration::from_mins(10);

/// When and how far a service is upgraded by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// How far.
    pub policy: Policy,
    /// When it may begin.
    pub window: Window,
}

/// What the time is.
pub trait Clock: Send + Sync + 'static {
    /// The local time of this host.
    fn now(&self) -> DateTime;
    /// Waits until it is worth looking again.
    fn moves(&self) -> impl Future<Output = ()> + Send;
}

/// The clock of this host, in its time zone.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> DateTime {
        ZonedDateTime::now().datetime()
    }

    async fn moves(&self) {
        sleep(LOOK).await;
    }
}

/// Begins upgrades by rules.
#[derive(Debug)]
pub struct Automatic<H, C> {
    upgrader: Arc<Upgrader<H>>,
    registry: Client,
    clock: C,
    rules: watch::Sender<BTreeMap<ServiceName, Rule>>,
    jitter: Duration,
    /// What was said last of a service, and when.
    said: Mutex<BTreeMap<ServiceName, (DateTime, String)>>,
}

/// What is done in a window.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// When the window began.
    begin: DateTime,
    /// When to look; none: that was done.
    at: Option<DateTime>,
}

/// Where a service would go.
enum Prospect {
    /// To this image.
    Goes(String),
    /// Nowhere.
    Stays(String),
    /// Nobody knows now.
    Unknown(String),
}

impl<H: Effects, C: Clock> Automatic<H, C> {
    /// For services with these rules. In each window they look after up to `jitter` by chance, but not after the half of
    /// it, so that not all hosts of the world ask at the same time.
    #[must_use]
    pub fn new(
        upgrader: Arc<Upgrader<H>>,
        registry: Client,
        clock: C,
        rules: BTreeMap<ServiceName, Rule>,
        jitter: Duration,
    ) -> Self {
        let rules = watch::Sender::new(rules);
        Self { upgrader, registry, clock, rules, jitter, said: Mutex::default() }
    }

    /// From now on these rules hold.
    pub fn set_rules(&self, rules: BTreeMap<ServiceName, Rule>) {
        self.rules.send_replace(rules);
    }

    /// Looks at the clock for ever. Dropping it stops that; an upgrade that was begun goes on.
    pub async fn run(&self) {
        let mut turns: BTreeMap<ServiceName, Turn> = BTreeMap::new();
        loop {
            let rules = self.rules.borrow().clone();
            for (service, rule) in rules.iter().filter(|(_, rule)| rule.policy != Policy::Off) {
                let now = self.clock.now();
                let Some((begin, end)) = rule.window.around(now) else { continue };
                let turn = turns.get(service).copied().filter(|turn| turn.begin == begin);
                let mut turn = turn.unwrap_or_else(|| Turn { begin, at: Some(by_chance(now, end, self.jitter)) });
                if turn.at.is_some_and(|at| at <= now) {
                    let again = self.look(service, rule.policy).await;
                    turn.at = if again { now.checked_add(AGAIN).ok() } else { None };
                }
                turns.insert(service.clone(), turn);
            }
            self.clock.moves().await;
        }
    }

    /// Asks and begins what is to begin. Returns whether to do so again in the same window.
    async fn look(&self, service: &ServiceName, policy: Policy) -> bool {
        let (again, words) = match self.prospect(service, policy).await {
            Ok(Prospect::Goes(to)) => match self.upgrader.upgrade(service, &to).await {
                Ok(_) => {
                    info!(%service, policy = policy.as_str(), "an upgrade to {to} begins by itself");
                    (false, format!("the upgrade to {to} was begun"))
                }
                Err(error) => {
                    warn!(%service, "an upgrade to {to} by itself could not begin: {}", chain(&error));
                    (true, chain(&error))
                }
            },
            Ok(Prospect::Stays(why)) => {
                info!(%service, "no upgrade by itself: {why}");
                (false, why)
            }
            Ok(Prospect::Unknown(why)) => {
                warn!(%service, "whether there is an upgrade is not known, and asked again while its window lasts: {why}");
                (true, why)
            }
            Err(error) => {
                info!(%service, "no upgrade by itself: {}", chain(&error));
                (matches!(error, UpgradeError::Record(_) | UpgradeError::Unknown { .. }), chain(&error))
            }
        };
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.insert(service.clone(), (self.clock.now(), words));
        again
    }

    async fn prospect(&self, service: &ServiceName, policy: Policy) -> Result<Prospect, UpgradeError> {
        let Upgradable { spec: _, upgrade, record, image } = self.upgrader.upgradable(service)?;
        let itself = self.upgrader.host.version(&image).await;
        let choice = |tags: &[String]| {
            let choice = choose(policy, upgrade.path, &image.reference, itself.as_deref(), tags);
            choice.map(|tag| tag.map(|tag| retag(&image.reference, tag)))
        };
        // What permits no choice need not be asked about.
        if let Err(why) = choice(&[]) {
            return Ok(Prospect::Stays(why.to_string()));
        }
        let tags = match self.registry.tags(&image.reference).await {
            Ok(tags) => tags,
            Err(error) if error.is_passing() => return Ok(Prospect::Unknown(chain(&error))),
            Err(error) => return Ok(Prospect::Stays(chain(&error))),
        };
        Ok(match choice(&tags) {
            Err(why) => Prospect::Stays(why.to_string()),
            Ok(None) => Prospect::Stays(format!("the registry has nothing newer than {} for it", image.reference)),
            Ok(Some(to)) if record.left.contains(&to) => Prospect::Stays(format!(
                "{to} was tried before and left; it comes by `agentctl service {service} upgrade --to {to}`, or a newer one by itself"
            )),
            Ok(Some(to)) => Prospect::Goes(to),
        })
    }

    /// What is in force, what its rule says and where that would lead now, in sentences for people.
    ///
    /// # Errors
    /// It can't be upgraded at all.
    pub async fn outlook(&self, service: &ServiceName) -> Result<Vec<String>, UpgradeError> {
        let Upgradable { record, image, .. } = self.upgrader.upgradable(service)?;
        let rule = self.rules.borrow().get(service).cloned().unwrap_or_default();
        let mut lines = vec![format!("{service} runs {}", image.reference)];
        lines.extend(record.last.iter().map(|last| format!("last: {}", last.words())));
        if rule.policy == Policy::Off {
            lines.push(format!(
                "it is not upgraded by itself; `policy` under [services.{service}.upgrades] changes that"
            ));
            return Ok(lines);
        }
        let next = rule.window.next(self.clock.now()).map(|next| next.strftime("%A %Y-%m-%d %H:%M").to_string());
        lines.push(format!(
            "it is upgraded by itself: policy {}, {}, next {}",
            rule.policy.as_str(),
            rule.window,
            next.unwrap_or_default()
        ));
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).get(service).cloned();
        lines.extend(said.map(|(at, words)| format!("{}: {words}", at.strftime("%Y-%m-%d %H:%M"))));
        lines.push(match self.prospect(service, rule.policy).await? {
            Prospect::Goes(to) => format!("now it would go to {to}"),
            Prospect::Stays(why) => format!("now it would stay: {why}"),
            Prospect::Unknown(why) => format!("where it would go now is not known: {why}"),
        });
        Ok(lines)
    }
}

/// A time from `now` on, at most `jitter` later, and long before the window ends.
fn by_chance(now: DateTime, end: DateTime, jitter: Duration) -> DateTime {
    let half = Duration::try_from(end.duration_since(now)).unwrap_or_default() / 2;
    let latest = jitter.min(half).as_secs();
    let later = SignedDuration::from_secs(i64::try_from(rand::random_range(0..=latest)).unwrap_or(0));
    now.checked_add(later).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_look_comes_by_chance_and_in_the_first_half_of_what_is_left() {
        let at = |text: &str| -> DateTime { text.parse().unwrap() };
        let (now, end) = (at("2026-01-01T03:00"), at("2026-01-01T05:00"));
        let times = |now, jitter: u64| -> BTreeSet<_> {
            (0..200).map(|_| by_chance(now, end, Duration::from_secs(jitter))).collect()
        };
        let spread = times(now, 1800);
        assert!(
            spread.len() > 100 && *spread.first().unwrap() >= now && *spread.last().unwrap() <= at("2026-01-01T03:30")
        );
        assert!(*times(at("2026-01-01T04:58"), 1800).last().unwrap() <= at("2026-01-01T04:59"));
        assert_eq!(times(now, 0), [now].into());
    }
}

//! Killed at every point of an upgrade and of the way back: the application is a few lines of shell, so that it is quick.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use lab::{Engine, EngineOptions, Lab};

use crate::agent::Agent;
use crate::busybox::busybox;

/// Migrates the volume, then the database, as applications do; refuses newer data.
const APP: &str = r#"
rm -f /up
mkdir -p /state /db
form=$(cat /db/form 2>/dev/null || echo 0)
if [ "$form" -gt "$FORM" ] || [ "$(cat /state/form 2>/dev/null || echo 0)" -gt "$FORM" ]; then
  echo "data of $form is newer than $FORM"; exit 1
fi
echo "$FORM" > /state/form
echo "$FORM" > "/state/code-$FORM"
if [ -n "$BROKEN" ]; then echo "migration failed"; exit 5; fi
echo "$FORM" > /db/form
touch /up /state/posts /db/posts
trap 'exit 0' TERM
while :; do sleep 1 & wait $!; done
"#;
const DATABASE: &str = "touch /up; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";

pub(crate) fn engine() -> Option<(Lab, Engine)> {
    if !lab::capability::or_skip().unwrap() {
        return None;
    }
    let root = busybox()?;
    let (lab, engine) = Lab::with_engine(&EngineOptions::default(), &[]).unwrap();
    std::fs::write(archive(&lab), root).unwrap();
    import(&lab, &engine, "toydb:1.0.0", &[runs(DATABASE)]);
    for (tag, form, broken) in [("1.0.0", 1, ""), ("1.1.0", 2, ""), ("1.2.0", 3, "1")] {
        application(&lab, &engine, &format!("toy:{tag}"), form, broken);
    }
    Some((lab, engine))
}

/// Makes an image of the application that brings data into a form.
pub(crate) fn application(lab: &Lab, engine: &Engine, name: &str, form: u32, broken: &str) {
    import(lab, engine, name, &[runs(APP), format!("ENV FORM={form} BROKEN={broken} NAME={name}")]);
}

fn runs(script: &str) -> String {
    format!("CMD {}", serde_json::to_string(&["/bin/sh", "-c", script]).unwrap())
}

fn archive(lab: &Lab) -> PathBuf {
    lab.dir().join("files/toy.tar")
}

fn import(lab: &Lab, engine: &Engine, name: &str, changes: &[String]) {
    let changes: Vec<&str> = changes.iter().flat_map(|change| ["--change", change]).collect();
    engine.docker(&[&["import"], &changes[..], &[archive(lab).to_str().unwrap(), name]].concat()).unwrap();
}

/// One service of the kind on a shared engine.
struct Toy<'a> {
    engine: &'a Engine,
    name: String,
}

impl Toy<'_> {
    fn start(&self, death: Option<usize>) -> Agent {
        Agent::start(self.engine, &self.name, death)
    }

    fn sh(&self, script: &str) -> String {
        let container = format!("cloudathome-{}", self.name);
        self.engine.docker(&["exec", &container, "sh", "-c", script]).unwrap().trim().to_owned()
    }

    /// A person writes something.
    fn posts(&self, text: &str) {
        self.sh(&format!("for at in state db data; do echo {text} >> /$at/posts; done"));
    }

    /// The form of its data and what is written in it; they must agree.
    fn content(&self) -> (String, String) {
        let of =
            |at: &str| (self.sh(&format!("cat /{at}/form")), self.sh(&format!("cat /{at}/posts")).replace('\n', " "));
        assert_eq!(of("state"), of("db"), "volume and database belong together");
        of("db")
    }

    fn copies(&self) -> Vec<String> {
        let volumes = self.engine.docker(&["volume", "ls", "--quiet"]).unwrap();
        let of = |name: &str| name.strip_prefix(&format!("cloudathome-{}-state.", self.name)).map(str::to_owned);
        volumes.lines().filter_map(of).collect()
    }

    fn dumps(&self) -> String {
        let container = format!("cloudathome-{}-db", self.name);
        self.engine.docker(&["exec", &container, "ls", "/dumps"]).unwrap().replace('\n', " ")
    }
}

#[test]
fn what_was_written_is_there_after_an_upgrade_and_after_a_way_back() {
    let Some((_lab, engine)) = engine() else { return };
    let toy = Toy { engine: &engine, name: "toy-a".into() };
    let mut agent = toy.start(None);
    agent.is_healthy();
    toy.posts("one");

    // To where no way leads.
    agent.tell("upgrade 4.0.0");
    let refused = agent.hears("refused: ");
    assert!(refused.contains("from 1.0.0 to 4.0.0 leaves a major version out; go to 2.x first"), "{refused}");
    agent.tell("upgrade 0.9.0");
    assert!(agent.hears("refused: ").contains("0.9.0 is older than 1.0.0"));
    agent.tell("rollback");
    assert!(agent.hears("refused: ").contains("has no former release"));
    let absent = agent.carries_out("upgrade 1.3.0");
    assert!(
        absent.contains("stays at toy:1.0.0, toydb:1.0.0 (generation 1)") && absent.contains("toy:1.3.0"),
        "{absent}"
    );

    let upgraded = agent.carries_out("upgrade 1.1.0");
    assert_eq!(upgraded, "upgraded to toy:1.1.0, toydb:1.0.0 (generation 3)");
    agent.is_healthy();
    assert_eq!(toy.content(), ("2".into(), "one".into()));
    assert_eq!(toy.sh("cat /data/log"), "tidied");
    assert_eq!((toy.copies(), toy.dumps().as_str()), (vec!["g1".into()], "g1-3.0.form g1-3.0.posts "));
    toy.posts("two");

    let failed = agent.carries_out("upgrade 1.2.0");
    assert!(failed.contains("went back to toy:1.1.0") && failed.contains("ended by itself"), "{failed}");
    agent.is_healthy();
    assert_eq!(toy.content(), ("2".into(), "one two".into()));
    assert_eq!(toy.sh("ls /state"), "code-1\ncode-2\nform\nposts");
    assert_eq!((toy.copies(), toy.dumps().as_str()), (vec!["g1".into()], "g1-3.0.form g1-3.0.posts "));

    // A way back that could not be gone to its end is not begun.
    let db = |script: &str| {
        let container = format!("cloudathome-{}-db", toy.name);
        toy.engine.docker(&["exec", &container, "sh", "-c", script]).unwrap();
    };
    db("mv /dumps/g1-3.0.form /dumps/away");
    agent.tell("rollback");
    let refused = agent.hears("refused: ");
    assert!(refused.contains("the dump of toy-a-db is gone or not whole"), "{refused}");
    db("mv /dumps/away /dumps/g1-3.0.form");
    let in_copy = |script: &str| {
        let mounts = ["--volume", "cloudathome-toy-a-state.g1:/copy", "--volume", "stash:/stash"];
        let run = ["run", "--rm", "--pull=never", "--network=none"];
        toy.engine.docker(&[&run[..], &mounts, &["toy:1.0.0", "sh", "-c", script]].concat()).unwrap();
    };
    in_copy("busybox mv /copy/* /stash");
    agent.tell("rollback");
    let refused = agent.hears("refused: ");
    assert!(refused.contains("cloudathome-toy-a-state.g1 is empty"), "{refused}");
    in_copy("busybox mv /stash/* /copy");

    let back = agent.carries_out("rollback");
    assert_eq!(back, "went back to toy:1.0.0, toydb:1.0.0 (generation 1)");
    agent.is_healthy();
    assert_eq!(toy.content(), ("1".into(), "one".into()));
    assert_eq!(toy.sh("cat /data/posts"), "one\ntwo", "what people put in is never taken back");
    assert_eq!((toy.copies(), toy.dumps().as_str()), (vec![], ""));
}

#[test]
fn a_way_back_that_can_not_succeed_is_given_up_when_all_is_removed() {
    let Some((_lab, engine)) = engine() else { return };
    let toy = Toy { engine: &engine, name: "toy-a".into() };
    let mut agent = toy.start(None);
    agent.is_healthy();
    assert!(agent.carries_out("upgrade 1.1.0").starts_with("upgraded"));
    drop(agent);
    let mut agent = toy.start(Some(1));
    agent.is_healthy();
    agent.tell("rollback");
    assert!(agent.dies_before("Closed").is_some_and(|point| point.ends_with("Written(Halt)")));
    drop(agent);
    engine.docker(&["volume", "rm", "cloudathome-toy-a-state.g1"]).unwrap();

    let mut agent = toy.start(None);
    for _ in 0..2 {
        while !agent.hears("point ").ends_with("Written(RestoreVolumes)") {}
    }
    agent.tell("upgrade 1.2.0");
    let refused = agent.hears("refused: ");
    assert!(refused.contains("there is no volume cloudathome-toy-a-state.g1"), "{refused}");
    agent.tell("give up");
    agent.hears("begun");
    agent.tell("upgrade 1.2.0");
    let refused = agent.hears("refused: ");
    assert!(refused.contains("being removed with all that it keeps"), "{refused}");
}

/// Lets an agent die at a point of a wish, and the next one go on. Returns whether there is such a point.
fn dies_and_goes_on(toy: &Toy<'_>, wish: &str, death: usize) -> bool {
    let back = wish == "rollback";
    let mut agent = toy.start((!back).then_some(death));
    agent.is_healthy();
    toy.posts("one");
    if back {
        assert!(agent.carries_out("upgrade 1.1.0").starts_with("upgraded"));
        toy.posts("two");
        drop(agent);
        agent = toy.start(Some(death));
        agent.is_healthy();
    }
    agent.tell(wish);
    let point = agent.dies_before("Closed");
    drop(agent);

    let mut next = toy.start(None);
    let ended = next.last();
    next.is_healthy();
    let (form, posts) = toy.content();
    let what = format!("{wish} dying at {point:?}: {ended}, form {form}, posts {posts}, copies {:?}", toy.copies());
    eprintln!("{what}");
    let upgraded = ended.starts_with("upgraded");
    assert_ne!((upgraded, wish), (true, "upgrade 1.2.0"), "{what}");
    assert_eq!((form.as_str(), posts.as_str()), (if upgraded { "2" } else { "1" }, "one"), "{what}");
    let people = if back { "one\ntwo" } else { "one" };
    assert_eq!(toy.sh("cat /data/posts"), people, "{what}");
    assert_eq!(toy.copies(), if upgraded { vec!["g1"] } else { vec![] }, "{what}");
    if !upgraded {
        assert_eq!(toy.dumps(), "", "{what}");
    }
    // One more takes as long as all the rest: some points stand for the others.
    if !upgraded && death.is_multiple_of(4) {
        assert!(next.carries_out("upgrade 1.1.0").starts_with("upgraded"), "{what}: not once more");
    }
    drop(next);
    for name in [&toy.name, &format!("{}-db", toy.name)] {
        toy.engine.docker(&["rm", "--force", &format!("cloudathome-{name}")]).unwrap();
    }
    point.is_some()
}

/// The points of a wish from `first` on.
fn at_every_point(wish: &str, first: usize, points: usize) {
    let Some((_lab, engine)) = engine() else { return };
    from_point(first, points, |death| {
        dies_and_goes_on(&Toy { engine: &engine, name: format!("toy-{death}") }, wish, death)
    });
}

/// Tries the points from `first` on until there is no such point, several at a time: they mostly wait. There must be more
/// than `points`.
pub(crate) fn from_point(first: usize, points: usize, try_point: impl Fn(usize) -> bool + Sync) {
    let (next, past) = (AtomicUsize::new(first), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !past.load(Ordering::SeqCst) {
                    let death = next.fetch_add(1, Ordering::SeqCst);
                    if !try_point(death) {
                        past.store(true, Ordering::SeqCst);
                        assert!(death > points, "there are {death} points only");
                    }
                }
            });
        }
    });
}

#[test]
fn an_agent_killed_at_any_point_of_an_upgrade_finishes_or_goes_back() {
    at_every_point("upgrade 1.1.0", 1, 18);
}

#[test]
fn an_agent_killed_at_any_point_of_a_failing_upgrade_goes_back() {
    // Up to the switch it is like any other.
    at_every_point("upgrade 1.2.0", 12, 26);
}

#[test]
fn an_agent_killed_at_any_point_of_a_way_back_goes_on_with_it() {
    at_every_point("rollback", 1, 13);
}

use model::{Check, Generation, Mount, PortBinding, Probe, SecretFile};
use proptest::prelude::*;

use super::*;
use crate::observed::Owned;

fn spec(name: &str) -> ContainerSpec {
    ContainerSpec {
        secrets: vec![SecretFile { path: "/run/secrets/p".into(), content: "geheim".into(), uid: 0 }],
        mounts: vec![Mount {
            source: MountSource::Volume(format!("cloudathome-{name}")),
            target: "/data".into(),
            read_only: false,
        }],
        stop_grace: Duration::from_secs(5),
        ..ContainerSpec::new(&"svc".parse().unwrap(), name, "image:1", Network::Private("cloudathome-net".into()))
    }
}

fn unit(name: &str, needs: &[&str]) -> Unit {
    Unit {
        container: spec(name),
        needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        ready: Some(check(name)),
        restart_after: None,
    }
}

fn check(name: &str) -> Check {
    Check {
        container: Some(name.into()),
        probe: Probe::Tcp("127.0.0.1:1".parse().unwrap()),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        grace: Duration::from_secs(1),
    }
}

/// A service of units that each belong to it.
fn service(name: &str, units: Vec<Unit>) -> ServiceSpec {
    let mut service = ServiceSpec::new(name.parse().unwrap(), units);
    for unit in &mut service.units {
        unit.container.service = service.name.clone();
    }
    service
}

/// Database, cache, and the application that needs both.
fn trio() -> ServiceSpec {
    service("svc", vec![unit("db", &[]), unit("cache", &[]), unit("app", &["db", "cache"])])
}

fn ours(spec: &ContainerSpec, position: usize, id: &str, state: EngineState) -> ObservedContainer {
    ObservedContainer {
        id: id.into(),
        name: format!("{NAME_PREFIX}{}", spec.name),
        owned: Some(Owned {
            service: spec.service.clone(),
            definition: definition_hash(spec),
            generation: Generation(1),
            position,
        }),
        image: spec.image.clone(),
        image_id: image_id(&spec.image),
        state,
        exit_code: None,
        started_at: None,
        finished_at: None,
        stop_grace: None,
    }
}

fn image_id(reference: &str) -> String {
    if reference.starts_with("sha256:") { reference.to_owned() } else { format!("sha256:{reference}") }
}

fn image(reference: &str) -> (String, String) {
    (reference.to_owned(), image_id(reference))
}

/// An engine with the images, and the containers of the service, all running and ready.
fn all_running(service: &ServiceSpec) -> Observed {
    let mut observed = Observed { images: [image("image:1")].into(), ..Observed::default() };
    settle(&mut observed, std::slice::from_ref(service));
    observed
}

/// Plans and applies until nothing is left; what runs gets ready in between. Returns the actions.
fn settle(observed: &mut Observed, desired: &[ServiceSpec]) -> Vec<String> {
    let mut taken = Vec::new();
    for _ in 0..30 {
        let plan = plan(desired, observed);
        if plan.steps.is_empty() {
            return taken;
        }
        taken.extend(actions(&plan));
        apply(observed, desired, &plan);
        observed.ready = running_ids(observed);
    }
    panic!("it never comes to rest: {taken:?}");
}

fn running_ids(observed: &Observed) -> BTreeSet<String> {
    observed.containers.iter().filter(|c| c.state == EngineState::Running).map(|c| c.id.clone()).collect()
}

/// What the steps do to an engine where all goes well, with what must hold of each.
fn apply(observed: &mut Observed, desired: &[ServiceSpec], plan: &Plan) {
    let unit = |name: &str| {
        let service = desired.iter().find(|service| service.units.iter().any(|unit| unit.container.name == name))?;
        Some((service, service.units.iter().find(|unit| unit.container.name == name)?))
    };
    let assert_ready = |observed: &Observed, name: &str| {
        let (service, unit) = unit(name).expect("starts what is wanted");
        for need in &unit.needs {
            assert!(is_ready(service, need, observed), "{name} is started before {need} is ready");
        }
    };
    let assert_last = |observed: &Observed, name: &str| {
        let Some((service, _)) = unit(name) else { return };
        for other in service.units.iter().filter(|other| other.needs.iter().any(|need| need == name)) {
            let other = other.container.name.as_str();
            let goes_on = observed.ours(other).is_some_and(|c| c.state == EngineState::Running);
            let goes = plan.steps.iter().any(|step| step.container == other && step.action.ends_one());
            assert!(!(goes_on && goes), "{name} is stopped before {other}, which needs it and is stopped as well");
        }
    };
    for step in &plan.steps {
        let name = &step.container;
        match &step.action {
            Action::Pull(reference) => {
                // Two containers may ask for the same one.
                observed.images.insert(reference.clone(), image_id(reference));
            }
            Action::CreateNetwork(name) => assert!(observed.networks.insert(name.clone()), "network made twice"),
            Action::CreateVolume(name) => assert!(observed.volumes.insert(name.clone()), "volume made twice"),
            Action::Stop { id, .. } => {
                assert_last(observed, name);
                let container = observed.containers.iter_mut().find(|c| &c.id == id).expect("stops what is there");
                assert!(container.owned.is_some(), "stopped a foreign container");
                container.state = EngineState::Exited;
                observed.hung.remove(id);
            }
            Action::Remove { id, .. } => {
                assert_last(observed, name);
                let at = observed.containers.iter().position(|c| &c.id == id).expect("removes what is there");
                assert!(observed.containers.remove(at).owned.is_some(), "removed a foreign container");
            }
            Action::Create { spec, labels } => {
                assert_ready(observed, name);
                let original = &unit(name).unwrap().1.container;
                let position = labels[LABEL_POSITION].parse().unwrap();
                let id = format!("new{}-{name}", observed.containers.len());
                let mut new = ours(original, position, &id, EngineState::Running);
                assert_eq!(labels[LABEL_DEFINITION], definition_hash(original));
                new.image_id = observed.images.get(&spec.image).expect("the image is here").clone();
                assert!(observed.containers.iter().all(|c| c.name != new.name), "name taken");
                if let Network::Private(network) = &spec.network {
                    assert!(observed.networks.contains(network), "network missing");
                }
                for mount in &spec.mounts {
                    if let MountSource::Volume(volume) = &mount.source {
                        assert!(observed.volumes.contains(volume), "volume missing");
                    }
                }
                observed.containers.push(new);
            }
            Action::Start { id, .. } => {
                assert_ready(observed, name);
                let container = observed.containers.iter_mut().find(|c| &c.id == id).expect("starts what is there");
                assert!(container.owned.is_some(), "started a foreign container");
                container.state = EngineState::Running;
            }
        }
    }
}

fn actions(plan: &Plan) -> Vec<String> {
    let word = |step: &Step| {
        let verb = match step.action {
            Action::Pull(_) => "pull",
            Action::CreateNetwork(_) => "network",
            Action::CreateVolume(_) => "volume",
            Action::Stop { .. } => "stop",
            Action::Remove { .. } => "remove",
            Action::Create { .. } => "create",
            Action::Start { .. } => "start",
        };
        format!("{verb} {}", step.container)
    };
    plan.steps.iter().map(word).collect()
}

#[test]
fn a_service_comes_up_in_its_order_and_images_come_first() {
    let mut observed = Observed::default();
    let first = plan(&[trio()], &observed);
    assert_eq!(actions(&first), ["pull db", "pull cache", "pull app"]);
    observed.images = [image("image:1")].into();
    let first = plan(&[trio()], &observed);
    assert_eq!(actions(&first), ["network db", "volume db", "create db", "volume cache", "create cache"]);
    assert_eq!(first.waits, [Note { container: "app".into(), reason: "waits for db".into() }]);
    apply(&mut observed, &[trio()], &first);
    assert_eq!(actions(&plan(&[trio()], &observed)), [""; 0], "they run, and are not ready");
    observed.ready = running_ids(&observed);
    assert_eq!(actions(&plan(&[trio()], &observed)), ["volume app", "create app"]);
}

#[test]
fn a_matching_running_container_is_adopted_untouched() {
    assert_eq!(plan(&[trio()], &all_running(&trio())), Plan::default());
}

#[test]
fn a_stopped_or_never_started_one_is_started() {
    for state in [EngineState::Created, EngineState::Exited] {
        let mut observed = all_running(&trio());
        observed.containers[0].state = state;
        assert_eq!(actions(&plan(&[trio()], &observed)), ["start db"]);
    }
}

#[test]
fn after_a_boot_all_is_started_in_order() {
    let mut observed = all_running(&trio());
    observed.containers.iter_mut().for_each(|container| container.state = EngineState::Exited);
    observed.ready.clear();
    assert_eq!(settle(&mut observed, &[trio()]), ["start db", "start cache", "start app"]);
}

#[test]
fn a_changed_definition_fetches_before_it_stops() {
    let mut changed = trio();
    changed.units[2].container.image = "image:2".into();
    let mut observed = all_running(&trio());
    let first = plan(&[changed.clone()], &observed);
    assert_eq!(actions(&first), ["pull app"]);
    assert_eq!(settle(&mut observed, &[changed]), ["pull app", "remove app", "create app"]);
}

#[test]
fn what_is_made_anew_together_goes_in_the_opposite_order() {
    let mut changed = trio();
    for at in [0, 2] {
        changed.units[at].container.env.insert("NEW".into(), "1".into());
    }
    let mut observed = all_running(&trio());
    assert_eq!(settle(&mut observed, &[changed]), ["remove app", "remove db", "create db", "create app"]);
}

#[test]
fn an_old_container_stays_while_its_successor_would_wait() {
    let mut changed = trio();
    changed.units[2].container.env.insert("NEW".into(), "1".into());
    let mut observed = all_running(&trio());
    let db = observed.ours("db").unwrap().id.clone();
    observed.ready.remove(&db);
    let plan = plan(&[changed], &observed);
    assert_eq!(actions(&plan), [""; 0]);
    assert_eq!(plan.waits[0].reason, "waits for db");
}

#[test]
fn what_a_person_stopped_is_stopped_in_the_opposite_order_and_kept() {
    let mut observed = all_running(&trio());
    let stopped = ServiceSpec { run: Run::Nothing, ..trio() };
    assert_eq!(settle(&mut observed, std::slice::from_ref(&stopped)), ["stop app", "stop cache", "stop db"]);
    assert_eq!(observed.containers.len(), 3);
    let only = ServiceSpec { run: Run::Only(vec!["db".into()]), ..trio() };
    assert_eq!(settle(&mut observed, &[only]), ["start db"]);
    assert_eq!(settle(&mut observed, &[trio()]), ["start cache", "start app"]);
}

#[test]
fn one_that_hangs_is_stopped_and_started() {
    let mut observed = all_running(&trio());
    let app = observed.ours("app").unwrap().id.clone();
    observed.hung.insert(app);
    assert_eq!(settle(&mut observed, &[trio()]), ["stop app", "start app"]);
}

#[test]
fn a_tag_that_moves_changes_nothing() {
    let mut pinned = service("svc", vec![unit("app", &[])]);
    let observed = all_running(&pinned);
    pinned.units[0].container.image_id = Some(image_id("image:1"));
    let moved = |mut observed: Observed| {
        observed.images.insert("image:1".into(), "sha256:another".into());
        observed
    };
    assert_eq!(plan(&[pinned.clone()], &observed), Plan::default(), "its id becoming known changes nothing");
    assert_eq!(plan(&[pinned.clone()], &moved(observed.clone())), Plan::default());

    // Made anew for another reason: from the image it had, not from what its name means now.
    pinned.units[0].container.env.insert("NEW".into(), "1".into());
    let mut both = moved(observed.clone());
    both.images.extend([image("sha256:image:1")]);
    let steps = plan(&[pinned.clone()], &both).steps;
    let Action::Create { spec, .. } = &steps[1].action else { panic!("{steps:?}") };
    assert_eq!(spec.image, "sha256:image:1");

    // The image is gone: fetched by its name, and only if it is the same.
    let without = Observed { images: BTreeMap::new(), ..observed.clone() };
    assert_eq!(actions(&plan(&[pinned.clone()], &without)), ["pull app"]);
    let plan = plan(&[pinned], &moved(without));
    assert_eq!(actions(&plan), [""; 0]);
    assert!(plan.refusals[0].reason.contains("is now another one"), "{:?}", plan.refusals);
}

#[test]
fn a_changed_secret_is_a_changed_definition_and_the_hash_does_not_show_it() {
    let mut other = spec("a");
    other.secrets[0].content = "anders".into();
    assert_ne!(definition_hash(&spec("a")), definition_hash(&other));
    assert_eq!(definition_hash(&spec("a")), definition_hash(&spec("a")));
    assert_eq!(definition_hash(&other).len(), 64);
}

#[test]
fn settings_that_are_not_used_do_not_count() {
    let json = serde_json::to_value(spec("a")).unwrap();
    let mut of_a_later_release = json.clone();
    of_a_later_release["devices"] = serde_json::json!([]);
    of_a_later_release["limits"]["files"] = Value::Null;
    let pruned = |mut json: Value| {
        without_empty(&mut json);
        json
    };
    assert_eq!(pruned(of_a_later_release), pruned(json.clone()));
    let mut empty = json.clone();
    empty["env"] = serde_json::json!({ "EMPTY": "" });
    assert_ne!(pruned(empty), pruned(json), "a variable that is empty is there");
}

#[test]
fn a_foreign_container_with_our_name_is_refused() {
    let mut observed = all_running(&trio());
    observed.containers[1].owned = None;
    observed.containers[0].state = EngineState::Exited;
    let plan = plan(&[trio()], &observed);
    assert!(plan.steps.is_empty(), "{plan:?}");
    assert!(plan.refusals[0].reason.contains("cloudathome-cache exists and is not ours"), "{:?}", plan.refusals);
}

#[test]
fn a_second_one_is_not_made_beside_ours_under_another_name() {
    let mut observed = all_running(&trio());
    observed.copies.insert("db".into(), "db-before".into());
    assert_eq!(plan(&[trio()], &observed), Plan::default(), "what is there goes on");
    observed.containers.retain(|container| !container.name.ends_with("db"));
    let refused = plan(&[trio()], &observed);
    assert!(refused.steps.is_empty(), "{refused:?}");
    assert!(refused.refusals[0].reason.contains("docker rename db-before cloudathome-db"), "{:?}", refused.refusals);
}

#[test]
fn definitions_that_can_not_be_right_are_refused() {
    let mut open = unit("open", &[]);
    open.container.ports = vec![PortBinding { host: "0.0.0.0:80".parse().unwrap(), container: 80 }];
    let mut both = unit("both", &[]);
    both.container.network = Network::Host;
    both.container.ports = vec![PortBinding { host: "127.0.0.1:80".parse().unwrap(), container: 80 }];
    let services = [
        service("a", vec![open]),
        service("b", vec![both]),
        service("c", vec![unit("twice", &[])]),
        service("d", vec![unit("twice", &[])]),
        service("e", vec![unit("early", &["late"]), unit("late", &[])]),
    ];
    let plan = plan(&services, &Observed { images: [image("image:1")].into(), ..Observed::default() });
    let refused: Vec<_> = plan.refusals.iter().map(|refusal| refusal.container.as_str()).collect();
    assert_eq!(refused, ["open", "both", "twice", "early"]);
    assert!(plan.steps.iter().all(|step| step.service.as_str() == "c"), "{plan:?}");
}

#[test]
fn unwanted_containers_of_ours_go_first_the_last_started_first() {
    let old = service("old", vec![unit("x", &[]), unit("y", &["x"])]);
    let plan = plan(&[service("svc", vec![unit("a", &[])])], &all_running(&old));
    assert_eq!(actions(&plan)[..2], ["remove y", "remove x"]);
}

fn any_unit() -> impl Strategy<Value = (u8, Unit)> {
    (
        any::<u8>(),
        prop::sample::select(vec!["image:1", "image:2"]),
        prop::sample::select(vec!["geheim", "anders"]),
        prop::collection::vec(prop::sample::select(vec!["v1", "v2", "v3"]), 0..3),
        prop::sample::select(vec![Network::Host, Network::Private("cloudathome-net".into())]),
        any::<bool>(),
    )
        .prop_map(|(needs, image, secret, volumes, network, has_check)| {
            let mut unit = unit("", &[]);
            unit.container.image = image.into();
            unit.container.secrets[0].content = secret.into();
            let mount = |volume: &str| Mount {
                source: MountSource::Volume(volume.into()),
                target: "/data".into(),
                read_only: false,
            };
            unit.container.mounts = volumes.into_iter().map(mount).collect();
            unit.container.network = network;
            unit.ready = unit.ready.filter(|_| has_check);
            (needs, unit)
        })
}

/// Up to four units, each of which needs some of those before it, as the bits of a number say.
fn any_service(name: &'static str) -> impl Strategy<Value = ServiceSpec> {
    let run = prop_oneof![
        4 => Just(Run::All),
        1 => Just(Run::Nothing),
        1 => Just(Run::Only(vec![format!("{name}0"), format!("{name}2")])),
    ];
    (prop::collection::vec(any_unit(), 0..5), run, any::<bool>()).prop_map(move |(units, run, pinned)| {
        let units = units.into_iter().enumerate().map(|(at, (needs, mut unit))| {
            unit.container.name = format!("{name}{at}");
            unit.container.image_id = pinned.then(|| image_id(&unit.container.image));
            unit.needs =
                (0..at).filter(|before| needs & (1 << before) != 0).map(|before| format!("{name}{before}")).collect();
            unit
        });
        ServiceSpec { run, ..service(name, units.collect()) }
    })
}

fn any_services() -> impl Strategy<Value = Vec<ServiceSpec>> {
    (any_service("a"), any_service("b"), any_service("c"), 0..4_usize).prop_map(|(a, b, c, count)| {
        let mut services = vec![a, b, c];
        services.truncate(count);
        services
    })
}

/// What became of some services: containers in any state, some of them foreign, some gone.
fn any_observed() -> impl Strategy<Value = Observed> {
    let state = prop::sample::select(vec![
        EngineState::Created,
        EngineState::Running,
        EngineState::Paused,
        EngineState::Exited,
        EngineState::Dead,
    ]);
    let fate = (state, 0..10_u8, any::<bool>(), any::<bool>());
    let names = || prop::collection::btree_set(prop::sample::select(vec!["cloudathome-net", "v1", "v2"]), 0..3);
    let images = prop::collection::btree_set(prop::sample::select(vec!["image:1", "image:2"]), 0..3);
    (any_services(), prop::collection::vec(fate, 12), names(), names(), images).prop_map(
        |(services, fates, networks, volumes, images)| {
            let units = services.iter().flat_map(|service| service.units.iter().enumerate());
            let mut observed = Observed {
                networks: networks.into_iter().map(str::to_owned).collect(),
                volumes: volumes.into_iter().map(str::to_owned).collect(),
                images: images.into_iter().map(image).collect(),
                ..Observed::default()
            };
            for (at, ((position, unit), (state, chance, ready, hung))) in units.zip(fates).enumerate() {
                let mut container = ours(&unit.container, position, &format!("old{at}"), state);
                match chance {
                    0 => continue,
                    1 => container.owned = None,
                    _ => {}
                }
                if state == EngineState::Running && ready {
                    observed.ready.insert(container.id.clone());
                } else if state == EngineState::Running && hung {
                    observed.hung.insert(container.id.clone());
                }
                observed.containers.push(container);
            }
            observed
        },
    )
}

proptest! {
    /// Each step is checked as it is taken, by [`apply`]: nothing foreign is touched, what is needed is ready before, and
    /// what needs something goes before it.
    #[test]
    fn it_comes_to_rest_with_what_is_wanted(desired in any_services(), before in any_observed()) {
        let mut after = before.clone();
        settle(&mut after, &desired);

        let last = plan(&desired, &after);
        prop_assert_eq!(&last.steps, &vec![], "a second pass is empty");
        let refused: BTreeSet<&str> = last.refusals.iter().map(|note| note.container.as_str()).collect();
        for service in &desired {
            let all_fine = service.units.iter().all(|unit| !refused.contains(name(unit)));
            for unit in &service.units {
                let wanted = match &service.run {
                    Run::All => true,
                    Run::Nothing => false,
                    Run::Only(names) => names.contains(&unit.container.name),
                };
                let container = after.ours(name(unit));
                let runs = container.is_some_and(|c| matches!(c.state, EngineState::Running | EngineState::Paused));
                let waits = last.waits.iter().any(|note| note.container == name(unit));
                if wanted && all_fine {
                    // Only somebody else's pause, or an upgrade, leaves one waiting for ever.
                    prop_assert!(runs && fits(&unit.container, container.unwrap()) || waits, "{}", name(unit));
                } else if all_fine {
                    prop_assert!(!runs, "{} still runs", name(unit));
                }
            }
        }
        let known: BTreeSet<String> =
            desired.iter().flat_map(|s| &s.units).map(|unit| format!("{NAME_PREFIX}{}", name(unit))).collect();
        prop_assert!(after.containers.iter().all(|c| c.owned.is_none() || known.contains(&c.name)));
        // Foreign containers, networks and volumes that were there still are.
        for foreign in before.containers.iter().filter(|container| container.owned.is_none()) {
            prop_assert!(after.containers.contains(foreign));
        }
        prop_assert!(after.volumes.is_superset(&before.volumes));
        prop_assert!(after.networks.is_superset(&before.networks));
        // What already matched is the same container.
        for unit in desired.iter().flat_map(|service| &service.units) {
            if let Some(container) = before.ours(name(unit))
                && fits(&unit.container, container)
                && container.state != EngineState::Dead
            {
                prop_assert!(after.containers.iter().any(|now| now.id == container.id));
            }
        }
    }
}

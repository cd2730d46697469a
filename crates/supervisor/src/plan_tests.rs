use model::{Mount, PortBinding, SecretFile};
use proptest::prelude::*;

use super::*;

fn spec(name: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        service: "svc".parse().unwrap(),
        image: "image:1".into(),
        image_id: None,
        entrypoint: Vec::new(),
        command: Vec::new(),
        user: None,
        env: BTreeMap::new(),
        secrets: vec![SecretFile { path: "/run/secrets/p".into(), content: "geheim".into(), uid: 0 }],
        mounts: vec![Mount {
            source: MountSource::Volume(format!("cloudathome-{name}")),
            target: "/data".into(),
            read_only: false,
        }],
        network: Network::Private("cloudathome-net".into()),
        aliases: Vec::new(),
        limits: model::Limits::default(),
        ports: Vec::new(),
        extra_hosts: BTreeMap::new(),
        dns: Vec::new(),
        stop_signal: None,
        stop_grace: Duration::from_secs(5),
    }
}

fn ours(spec: &ContainerSpec, id: &str, state: EngineState) -> ObservedContainer {
    ObservedContainer {
        id: id.into(),
        name: format!("{NAME_PREFIX}{}", spec.name),
        owned: Some(Owned { service: spec.service.clone(), definition: definition_hash(spec) }),
        image: spec.image.clone(),
        state,
        exit_code: None,
        started_at: None,
        finished_at: None,
    }
}

/// What the steps do to an engine where all goes well.
fn apply(observed: &mut Observed, plan: &Plan, next_id: &mut u32) {
    for step in &plan.steps {
        match &step.action {
            Action::EnsureImage(_) => {}
            Action::CreateNetwork(name) => assert!(observed.networks.insert(name.clone()), "network made twice"),
            Action::CreateVolume(name) => assert!(observed.volumes.insert(name.clone()), "volume made twice"),
            Action::Remove { id, .. } => {
                let at = observed.containers.iter().position(|c| &c.id == id).expect("removes what is there");
                assert!(observed.containers.remove(at).owned.is_some(), "removed a foreign container");
            }
            Action::Create(spec) => {
                *next_id += 1;
                let new = ours(spec, &format!("new{next_id}"), EngineState::Running);
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
                let container = observed.containers.iter_mut().find(|c| &c.id == id).expect("starts what is there");
                assert!(container.owned.is_some(), "started a foreign container");
                container.state = EngineState::Running;
            }
        }
    }
}

fn actions(plan: &Plan) -> Vec<&'static str> {
    let word = |step: &Step| match step.action {
        Action::EnsureImage(_) => "image",
        Action::CreateNetwork(_) => "network",
        Action::CreateVolume(_) => "volume",
        Action::Remove { .. } => "remove",
        Action::Create(_) => "create",
        Action::Start { .. } => "start",
    };
    plan.steps.iter().map(word).collect()
}

#[test]
fn nothing_there_makes_everything() {
    let plan = plan(&[spec("a"), spec("b")], &Observed::default());
    assert_eq!(actions(&plan), ["image", "network", "volume", "create", "image", "volume", "create"]);
}

#[test]
fn a_matching_running_container_is_adopted_untouched() {
    let observed = Observed { containers: vec![ours(&spec("a"), "1", EngineState::Running)], ..Observed::default() };
    assert_eq!(plan(&[spec("a")], &observed), Plan::default());
}

#[test]
fn a_stopped_or_never_started_one_is_started() {
    for state in [EngineState::Created, EngineState::Exited] {
        let observed = Observed { containers: vec![ours(&spec("a"), "1", state)], ..Observed::default() };
        assert_eq!(actions(&plan(&[spec("a")], &observed)), ["start"]);
    }
}

#[test]
fn a_changed_definition_fetches_before_it_stops() {
    let observed = Observed {
        containers: vec![ours(&spec("a"), "1", EngineState::Running)],
        networks: ["cloudathome-net".to_owned()].into(),
        volumes: ["cloudathome-a".to_owned()].into(),
    };
    let changed = ContainerSpec { image: "image:2".into(), ..spec("a") };
    assert_eq!(actions(&plan(&[changed], &observed)), ["image", "remove", "create"]);
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
fn a_foreign_container_with_our_name_is_refused() {
    let mut foreign = ours(&spec("a"), "1", EngineState::Exited);
    foreign.owned = None;
    let plan = plan(&[spec("a")], &Observed { containers: vec![foreign], ..Observed::default() });
    assert!(plan.steps.is_empty());
    assert!(plan.refusals[0].reason.contains("cloudathome-a exists and is not ours"), "{:?}", plan.refusals);
}

#[test]
fn definitions_that_can_not_be_right_are_refused() {
    let mut open = spec("open");
    open.ports = vec![PortBinding { host: "0.0.0.0:80".parse().unwrap(), container: 80 }];
    let mut both = spec("both");
    both.network = Network::Host;
    both.ports = vec![PortBinding { host: "127.0.0.1:80".parse().unwrap(), container: 80 }];
    let plan = plan(&[open, both, spec("twice"), spec("twice")], &Observed::default());
    let refused: Vec<_> = plan.refusals.iter().map(|refusal| refusal.container.as_str()).collect();
    assert_eq!(refused, ["open", "both", "twice"]);
    assert!(plan.steps.iter().all(|step| step.container == "twice"));
}

#[test]
fn an_unwanted_container_of_ours_goes_first() {
    let observed = Observed { containers: vec![ours(&spec("old"), "1", EngineState::Running)], ..Observed::default() };
    let plan = plan(&[spec("a")], &observed);
    assert_eq!(actions(&plan)[0], "remove");
    assert_eq!(plan.steps[0].container, "old");
}

fn any_spec() -> impl Strategy<Value = ContainerSpec> {
    (
        prop::sample::select(vec!["a", "b", "c", "d", "e"]),
        prop::sample::select(vec!["one", "two"]),
        prop::sample::select(vec!["image:1", "image:2"]),
        prop::sample::select(vec!["geheim", "anders"]),
        prop::collection::vec(prop::sample::select(vec!["v1", "v2", "v3"]), 0..3),
        any::<bool>(),
    )
        .prop_map(|(name, service, image, secret, volumes, host)| {
            let mut spec = spec(name);
            spec.service = service.parse().unwrap();
            spec.image = image.into();
            spec.secrets[0].content = secret.into();
            spec.mounts = volumes
                .into_iter()
                .map(|volume| Mount {
                    source: MountSource::Volume(volume.into()),
                    target: "/data".into(),
                    read_only: false,
                })
                .collect();
            if host {
                spec.network = Network::Host;
            }
            spec
        })
}

fn any_observed() -> impl Strategy<Value = Observed> {
    let state = prop::sample::select(vec![
        EngineState::Created,
        EngineState::Running,
        EngineState::Paused,
        EngineState::Exited,
        EngineState::Dead,
    ]);
    let container = (any_spec(), state, any::<bool>()).prop_map(|(spec, state, owned)| {
        let mut container = ours(&spec, "", state);
        container.owned = container.owned.filter(|_| owned);
        container
    });
    let names = || prop::collection::btree_set(prop::sample::select(vec!["cloudathome-net", "v1", "v2"]), 0..3);
    (prop::collection::vec(container, 0..6), names(), names()).prop_map(|(containers, networks, volumes)| {
        // As in an engine, names are unique.
        let unique: BTreeMap<String, ObservedContainer> =
            containers.into_iter().map(|container| (container.name.clone(), container)).collect();
        let mut containers: Vec<_> = unique.into_values().collect();
        for (at, container) in containers.iter_mut().enumerate() {
            container.id = format!("old{at}");
        }
        Observed {
            containers,
            networks: networks.into_iter().map(str::to_owned).collect(),
            volumes: volumes.into_iter().map(str::to_owned).collect(),
        }
    })
}

proptest! {
    #[test]
    fn one_round_of_steps_leaves_nothing_to_do(
        desired in prop::collection::vec(any_spec(), 0..6),
        before in any_observed(),
    ) {
        let first = plan(&desired, &before);
        let mut after = before.clone();
        apply(&mut after, &first, &mut 0);

        let second = plan(&desired, &after);
        prop_assert_eq!(second.steps, vec![]);
        prop_assert_eq!(&second.refusals, &first.refusals);

        // Every definition is running or refused.
        for spec in &desired {
            let refused = first.refusals.iter().any(|refusal| refusal.container == spec.name);
            let running = after.ours(&spec.name).is_some_and(|c| matches!(c.state, EngineState::Running | EngineState::Paused));
            prop_assert!(refused || running, "{} is neither", spec.name);
        }
        // Foreign containers, networks and volumes that were there still are.
        for foreign in before.containers.iter().filter(|container| container.owned.is_none()) {
            prop_assert!(after.containers.contains(foreign));
        }
        prop_assert!(after.volumes.is_superset(&before.volumes));
        prop_assert!(after.networks.is_superset(&before.networks));
        // What already matched is the same container.
        for container in &before.containers {
            let same = desired.iter().find(|spec| format!("{NAME_PREFIX}{}", spec.name) == container.name);
            if let (Some(spec), Some(owned)) = (same, &container.owned)
                && owned.definition == definition_hash(spec)
                && container.state != EngineState::Dead
            {
                prop_assert!(after.containers.iter().any(|now| now.id == container.id));
            }
        }
    }
}

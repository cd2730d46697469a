use super::*;
use crate::upgrade::{Failure, StepEnd};

fn image(reference: &str, id: Option<&str>) -> BTreeMap<String, PinnedImage> {
    [("app".to_owned(), PinnedImage { reference: reference.into(), id: id.map(str::to_owned) })].into()
}

fn images() -> BTreeMap<String, PinnedImage> {
    image("app:1", None)
}

#[test]
fn records_outlive_the_agent_and_a_change_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let service: ServiceName = "cloud".parse().unwrap();
    let records = Records::open(dir.path().join("services")).unwrap();
    let mut watch = records.watch();
    assert!(records.set_stopped(&service, true).is_err(), "nothing is installed");

    let record = records.install(&service, images()).unwrap();
    assert_eq!(record.wanted(), Wanted { release: record.release.clone(), run: Run::All, held: None });
    assert!(watch.has_changed().unwrap());
    watch.mark_unchanged();
    records.install(&service, BTreeMap::new()).unwrap();
    assert!(!watch.has_changed().unwrap(), "what is installed stays");

    records.pin(&service, &image("app:2", Some("sha256:2"))).unwrap();
    let other = records.record(&service).unwrap();
    assert_eq!(other.release.images["app"].id, None, "what another reference means is none of its business");
    records.pin(&service, &image("app:1", Some("sha256:1"))).unwrap();
    records.pin(&service, &image("app:1", Some("sha256:2"))).unwrap();
    let record = records.set_stopped(&service, true).unwrap();
    assert_eq!(record.release.images["app"].id.as_deref(), Some("sha256:1"), "a tag that moves changes nothing");
    assert_eq!(record.wanted().run, Run::Nothing);

    std::fs::write(dir.path().join("services/cloud.new"), "half").unwrap();
    let again = Records::open(dir.path().join("services")).unwrap();
    assert_eq!(again.record(&service), Some(record));
}

#[test]
fn while_an_upgrade_is_at_work_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let service: ServiceName = "cloud".parse().unwrap();
    let records = Records::open(dir.path()).unwrap();
    records.install(&service, images()).unwrap();
    let begun = records.change_idle(&service, |record| {
        *record = record.begin_upgrade(&["app".into()], "app:2", Vec::new(), Vec::new(), 0);
    });
    assert_eq!(begun.unwrap().wanted().run, Run::All);
    let busy = records.set_stopped(&service, true).unwrap_err().to_string();
    assert_eq!(
        busy,
        "cloud is being upgraded to app:2 (generation 2): checking the way and fetching the image; wait until that \
         has ended"
    );
}

#[test]
fn a_way_back_that_can_not_succeed_ends_by_removing_all() {
    let dir = tempfile::tempdir().unwrap();
    let service: ServiceName = "cloud".parse().unwrap();
    let records = Records::open(dir.path()).unwrap();
    records.install(&service, images()).unwrap();
    let fail = |step, why: &str| StepEnd::Failed(Failure::new(step, why));
    records
        .change_idle(&service, |record| {
            *record = record.begin_upgrade(&["app".into()], "app:2", vec!["v".into()], Vec::new(), 0);
            for step in [Step::Prepare, Step::Quiesce, Step::Snapshot, Step::Dump] {
                assert_eq!(record.journal.as_ref().unwrap().step, step);
                *record = record.advance(&StepEnd::Done(None), 1);
            }
            *record = record.advance(&fail(Step::Settle, "not healthy"), 2);
            *record = record.advance(&StepEnd::Done(None), 3);
            *record = record.advance(&fail(Step::RestoreVolumes, "there is no volume v.g1"), 4);
        })
        .unwrap();
    let busy = records.set_stopped(&service, true).unwrap_err().to_string();
    assert!(busy.contains("there is no volume v.g1; it is tried again; `purge` gives it up"), "{busy}");

    // Whoever dies at it must not leave half of a service that could be started.
    records.begin_purge(&service).unwrap();
    let again = Records::open(dir.path()).unwrap();
    let record = again.record(&service).unwrap();
    assert_eq!((record.journal.is_some(), record.wanted().run), (false, Run::Nothing));
    let busy = again.set_stopped(&service, false).unwrap_err().to_string();
    assert!(busy.contains("being removed with all that it keeps"), "{busy}");
    let record = again.renew(&service).unwrap();
    assert_eq!((record.purging, record.stopped, record.wanted().held), (false, true, None));
    assert_eq!(again.set_stopped(&service, false).unwrap().wanted().run, Run::All);
}

#[test]
fn without_a_former_release_there_is_no_way_back() {
    assert_eq!(Record::new(images()).begin_rollback(0), None);
}

#[test]
fn an_image_that_never_ran_is_put_right_by_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let service: ServiceName = "cloud".parse().unwrap();
    let records = Records::open(dir.path()).unwrap();
    let named = |reference: &str| image(reference, None);
    records.install(&service, named("ap:1")).unwrap();
    assert_eq!(records.install(&service, named("app:1")).unwrap().release.images["app"].reference, "app:1");
    records.pin(&service, &image("app:1", Some("sha256:1"))).unwrap();
    assert_eq!(records.install(&service, named("app:2")).unwrap().release.images["app"].reference, "app:1");

    // A service that begins anew does so with what the configuration names then.
    let renewed = records.renew(&service).unwrap();
    assert_eq!((renewed.stopped, &renewed.release.images["app"].id), (true, &None));
    let record = records.install(&service, named("app:2")).unwrap();
    assert_eq!((record.stopped, record.release.images["app"].reference.as_str()), (true, "app:2"));
}

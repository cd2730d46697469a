use super::*;
use crate::record::PinnedImage;

const STEPS: [Step; 12] = [
    Step::Prepare,
    Step::Quiesce,
    Step::Snapshot,
    Step::Dump,
    Step::Settle,
    Step::Finish,
    Step::Keep,
    Step::Halt,
    Step::RestoreVolumes,
    Step::RestoreDatabases,
    Step::SettleBack,
    Step::Clear,
];

fn ends(step: Step) -> [StepEnd; 3] {
    [StepEnd::Done(None), StepEnd::Failed(Failure::new(step, "it")), StepEnd::Interrupted]
}

#[test]
fn from_every_step_success_leads_to_an_end() {
    for step in STEPS {
        let mut at = Some(step);
        for _ in 0..STEPS.len() {
            at = at.and_then(|step| step.next(&StepEnd::Done(None)));
        }
        assert_eq!(at, None, "{step:?}");
    }
}

#[test]
fn the_new_release_is_entered_from_saved_data_only_and_left_by_the_way_back() {
    for step in STEPS {
        for end in ends(step) {
            let Some(next) = step.next(&end) else { continue };
            if next.runs_new() && !step.runs_new() {
                assert_eq!((step, &end), (Step::Dump, &StepEnd::Done(None)));
            }
            if step.runs_new() && !next.runs_new() {
                assert_eq!(next, Step::Halt);
                assert!(!step.published(), "{step:?}: what people wrote would be lost");
            }
            if !step.runs_application() && next.runs_application() && !next.runs_new() {
                let untouched = matches!(step, Step::Quiesce | Step::Snapshot | Step::Dump);
                let restored = (step, &end) == (Step::RestoreDatabases, &StepEnd::Done(None));
                assert!(untouched || restored, "{step:?} {end:?}");
            }
        }
    }
}

#[test]
fn nothing_is_published_between_the_copies_and_the_end() {
    for step in STEPS {
        for end in ends(step) {
            let Some(next) = step.next(&end) else {
                assert!(step.published() && step.runs_application());
                continue;
            };
            if step.published() && !next.published() {
                assert_eq!((step, next), (Step::Prepare, Step::Quiesce));
            }
        }
    }
}

#[test]
fn what_was_left_is_remembered_unless_it_failed_for_a_reason_of_its_host() {
    let image = |reference: &str| PinnedImage { reference: reference.into(), id: None };
    let units = ["app".to_owned()];
    let fresh = Record::new([("app".to_owned(), image("app:1.0.0"))].into());
    let ended = |record: &Record, to: &str, step: Step, end: &StepEnd| {
        let mut record = record.begin_upgrade(&units, to, Vec::new(), Vec::new(), 0);
        while let Some(journal) = &record.journal {
            let end = if journal.step == step { end.clone() } else { StepEnd::Done(None) };
            record = record.advance(&end, 0);
        }
        record
    };
    let failed = |step| StepEnd::Failed(Failure::new(step, "a fault"));
    assert!(ended(&fresh, "app:1.0.1", Step::Prepare, &failed(Step::Prepare)).left.is_empty());
    assert!(ended(&fresh, "app:1.0.1", Step::Dump, &StepEnd::Interrupted).left.is_empty());
    for step in [Step::Dump, Step::Settle] {
        assert_eq!(ended(&fresh, "app:1.0.1", step, &failed(step)).left, ["app:1.0.1"], "{step:?}");
    }
    // Another one that fails, or succeeds, does not make it forgotten; its own success does.
    let left = ended(&fresh, "app:1.0.1", Step::Settle, &failed(Step::Settle));
    assert_eq!(ended(&left, "app:2.0.0", Step::Prepare, &failed(Step::Prepare)).left, ["app:1.0.1"]);
    assert_eq!(ended(&left, "app:1.0.1", Step::Prepare, &failed(Step::Prepare)).left, ["app:1.0.1"]);
    assert_eq!(ended(&left, "app:1.0.2", Step::Clear, &StepEnd::Done(None)).left, ["app:1.0.1"]);
    let upgraded = ended(&left, "app:1.0.1", Step::Clear, &StepEnd::Done(None));
    assert!(upgraded.left.is_empty());
    // A person goes back from it.
    let mut back = upgraded.begin_rollback(0).unwrap();
    while back.journal.is_some() {
        back = back.advance(&StepEnd::Done(None), 0);
    }
    assert_eq!(back.left, ["app:1.0.1"]);
}

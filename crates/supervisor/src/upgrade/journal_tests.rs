use super::*;

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

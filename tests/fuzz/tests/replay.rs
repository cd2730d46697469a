//! Replays the committed corpus, and every truncation and a flip of every byte of it.

use std::fs;
use std::path::Path;

#[test]
fn the_corpus_finds_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in fuzz::TARGETS {
        let dir = corpus.join(name);
        let mut seeds = 0;
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            target(&bytes);
            // Long seeds are cut and bent in steps: a profile is read in a millisecond.
            let step = bytes.len() / 400 + 1;
            for at in (0..bytes.len()).step_by(step) {
                target(&bytes[..at]);
                let mut bent = bytes.clone();
                bent[at] ^= 0x11;
                target(&bent);
            }
            seeds += 1;
        }
        assert!(seeds > 0, "{name} has no seeds");
    }
}

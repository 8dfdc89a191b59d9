//! Replays the stored corpora, so that what a fuzzer once found stays found in every plain test run.

use std::{collections::BTreeSet, fs, path::PathBuf};

fn corpora() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn names(folder: &PathBuf) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_stored_input_keeps_the_promises() {
    for (target, body) in fuzz::TARGETS {
        let folder = corpora().join(target);
        let inputs = names(&folder);
        assert!(!inputs.is_empty(), "the corpus of {target} is empty");
        for input in inputs {
            println!("{target}/{input}"); // shown if the body panics
            body(&fs::read(folder.join(input)).unwrap());
        }
    }
}

#[test]
fn every_corpus_has_a_target() {
    let targets: BTreeSet<String> = fuzz::TARGETS.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names(&corpora()), targets);
}

#[test]
fn bodies_take_empty_and_short_inputs() {
    for (_, body) in fuzz::TARGETS {
        for length in 0..64 {
            body(&vec![0; length]);
            body(&vec![0xFF; length]);
        }
    }
}

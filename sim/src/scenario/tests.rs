//! Files read back as they were written; whatever is wrong with one is said with its line and a way out.

use proptest::prelude::*;

use super::*;
use crate::fault::Fault;

proptest! {
    #[test]
    fn any_drawn_plan_reads_back_as_a_file(seed: u64, subject in 0..SUBJECTS.len()) {
        let plan = draw(seed, SUBJECTS[subject].0, false);
        let scenario = Scenario { claim: "a \"claim\"".into(), plan, expect: Expect::default() };
        let text = scenario.to_toml();
        prop_assert_eq!(Scenario::parse(&text, "file"), Ok(scenario));
    }

    #[test]
    fn any_text_is_a_scenario_or_an_error(text: String) {
        let _ = Scenario::parse(&text, "file");
    }

    #[test]
    fn any_operations_and_crashes_are_read_or_refused(ops in "[a-z0-9 ;x-]{0,40}", end in "[a-z0-9 ,]{0,30}") {
        let _ = Scenario::parse(&format!("{HEAD}[[life]]\nclients = [\"{ops}\"]\nend = \"{end}\"\n"), "file");
    }
}

const HEAD: &str = "version = 1\nclaim = \"c\"\n";

/// A file whose fourth line has these clients, and its fifth this end.
fn life(clients: &str, end: &str) -> String {
    format!("{HEAD}[[life]]\nclients = [\"{clients}\"]\nend = \"{end}\"\n")
}

#[track_caller]
fn refused(text: &str, message: &str) {
    let error = Scenario::parse(text, "file").expect_err("malformed").to_string();
    assert!(error.starts_with(&format!("file:{message}")), "{error}");
}

#[test]
fn what_was_written_by_hand_reads_back_too() {
    let text = format!(
        "{HEAD}seed = 7\n[machine]\nrates = {{ eintr = \"1/64\" }}\n[[life]]\nclients = [\"append 1 sync; ;scan\", \"\"]\n\
         opening = [\"kill at io 3\", \"power cut at end keep only a, dir\"]\nfaults = [\"eio-sync at io 12\"]\n\
         end = \"power cut at io 9 keep none\"\n\
         [expect]\nviolation = \"I1\"\nrefused = true\nfails_under = \"wal-seg-no-dirsync\"\nfails_with = [\"I1\", \"I9\"]\n"
    );
    let scenario = Scenario::parse(&text, "file").expect("well-formed");
    assert_eq!(scenario.plan.lives[0].opening.len(), 2);
    assert_eq!(scenario.plan.machine.rates.get(&Fault::Eintr), Some(&64));
    assert_eq!(Scenario::parse(&scenario.to_toml(), "file"), Ok(scenario));
}

#[test]
fn without_a_life_the_seed_draws_the_plan_and_the_file_changes_it() {
    let text = format!("{HEAD}seed = 9\nimage_checks = 5\n[engine]\nsegment_bytes = 65536\n");
    let plan = Scenario::parse(&text, "file").expect("well-formed").plan;
    let drawn = draw(9, "wal", false);
    assert_eq!(plan.lives, drawn.lives);
    assert_eq!(plan.machine, drawn.machine);
    assert_eq!((plan.engine.segment_bytes, plan.image_checks), (65536, 5));
}

#[test]
fn keys_are_checked() {
    refused("", "1: the file is empty");
    refused("\n \n", "1: the file is empty");
    refused("claim = \"c\"", "1: missing field `version`");
    refused("version = 1\n", "1: missing field `claim`");
    refused("version = 1\nclaim = \" \"\n", "2: the claim is empty");
    refused(&format!("{HEAD}subjct = \"wal\""), "3: unknown key 'subjct'; did you mean 'subject'?");
    refused(
        &format!("{HEAD}[[life]]\nend = \"close\"\nfuults = []"),
        "5: unknown key 'fuults'; did you mean 'faults'?",
    );
    refused(&format!("{HEAD}seed = -1\n"), "3: ");
    refused(&format!("{HEAD}seed = 1\nseed = 2\n"), "4: duplicate key");
    refused(&format!("{HEAD}claim"), "3: ");
    refused(&format!("{HEAD}x = {}", "[".repeat(10_000)), "3: ");
}

/// A later version may have other keys: the version is what is wrong with such a file.
#[test]
fn the_version_is_judged_before_the_keys() {
    refused("claim = \"c\"\nweather = 1\nversion = 2", "3: version 2 is unknown; this program reads version 1");
    refused("version = -1", "1: version -1 is unknown");
}

#[test]
fn values_are_checked_where_they_stand() {
    // The words of the values stand in the claim as well: an error must not point there.
    let head = "version = 1\nclaim = \"subject segment_bytes wall eio-snc I99 5\"\n";
    refused(&format!("{head}subject = \"wall\""), "3: subject 'wall' is unknown");
    refused(&format!("{head}[engine]\nsegment_bytes = 5\n"), "4: option segment_bytes is 5: use a multiple of 4096");
    refused(&format!("{head}[machine]\nsector_bytes = 5\n"), "4: sector_bytes is 5; use 512 or 4096");
    refused(&format!("{head}[machine]\nlatency_us = [5, 4]\n"), "4: latency_us is [least, greatest]");
    let rates = |rates: &str| format!("{head}[machine]\nrates = {{ {rates} }}\n");
    refused(&rates("eio-snc = \"1/2\""), "4: fault 'eio-snc' is unknown; did you mean 'eio-sync'?");
    refused(&rates("eintr = \"2/3\""), "4: rate '2/3' is not like 1/64");
    refused(&rates("eintr = \"1/0\""), "4: rate '1/0' is not like 1/64");
    let expect = |expect: &str| format!("{head}[expect]\n{expect}\n");
    refused(&expect("violation = \"I99\""), "4: invariant 'I99' is unknown; there are: I1, I1a,");
    refused(
        &expect("fails_with = [\"I1\"]\nfails_under = \"wal-seg-no-dirsink\""),
        "5: planted bug 'wal-seg-no-dirsink' is unknown; did you mean 'wal-seg-no-dirsync'?",
    );
    refused(&expect("fails_with = [\"I1\"]"), "3: fails_under and fails_with stand together or not at all");
}

#[test]
fn operations_are_checked_where_they_stand() {
    refused(&life("sync; apend 1 sync", "close"), "4: 'apend' is no operation; did you mean 'append'?");
    refused(&life("append one sync", "close"), "4: 'one' is not a number");
    let lines =
        format!("{HEAD}[[life]]\nclients = [\n  \"sync\",\n  \"\"\"sync;\n  scan;\n  snyc\"\"\",\n]\nend = \"close\"");
    refused(&lines, "8: 'snyc' is no operation; did you mean 'sync'?");
}

#[test]
fn crashes_and_faults_are_checked_where_they_stand() {
    refused(&life("sync", "kil at io 3"), "5: 'kil at io 3' is not like 'kill at io 12'");
    refused(&life("sync", "kill at io 0"), "5: 'kill at io 0' is not like");
    refused(&life("sync", "kill at end keep none"), "5: 'kill at end keep none': a kill keeps everything");
    refused(&life("sync", "power cut at end keep some"), "5: 'some' is not draw, all, none or 'only FILE,");
    refused(&life("sync", "power cut at end keep only"), "5: 'only' is not");
    refused(&life("sync", "power cut at end keep only a,,b"), "5: 'only a,,b' is not");
    let with = |line: &str| format!("{}{line}\n", life("sync", "close"));
    refused(&with("opening = [\"close\"]"), "6: 'close' is not like");
    refused(&with("faults = [\"eio-sync at io 0\"]"), "6: 'eio-sync at io 0' is not like 'eio-sync at io 12'");
    refused(&with("faults = [\"eio-snc at io 3\"]"), "6: fault 'eio-snc' is unknown; did you mean 'eio-sync'?");
}

#[test]
fn no_file_asks_for_more_than_the_limits() {
    refused(&life("batch 9999999999x99999999999 sync", "close"), "4: 'batch 9999999999x99999999999 sync' is too much");
    refused(&life("append 200000000 sync; append 200000000 sync", "close"), "4: 'append 200000000 sync' is too much");
    refused(&life("pause 1; pause 600000000", "close"), "4: 'pause 600000000' is too much");
    refused(&life(&"sync;".repeat(MAX_OPS + 1), "close"), "4: 'sync' is too much");
    refused(&life(&"\", \"".repeat(MAX_CLIENTS), "close"), "4: 65 clients, at most 64");
    let lives = format!("{HEAD}{}", "[[life]]\nend = \"close\"\n".repeat(MAX_LIVES + 1));
    refused(&lives, "203: 101 lives, at most 100");
    let faults = format!("{}faults = [{}]", life("", "close"), "\"eintr at io 1\",".repeat(MAX_EVENTS + 1));
    refused(&faults, "6: 1001 faults, at most 1000");
}

#[test]
fn a_file_that_is_no_text_or_too_long_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let read = |bytes: &[u8]| {
        let path = folder.path().join("file.toml");
        fs::write(&path, bytes).expect("written");
        Scenario::read(&path).expect_err("malformed").to_string()
    };
    assert!(read(b"\xff\xfe").ends_with("not UTF-8 text"));
    assert!(read(&vec![b'#'; MAX_FILE_BYTES as usize + 1]).contains("larger than 1048576 bytes"));
    assert!(read(b"\0").contains("file.toml:1: "));
    let missing = Scenario::read(&folder.path().join("none.toml")).expect_err("missing");
    assert!(matches!(missing, ScenarioError::Unreadable { .. }));
    assert!(Scenario::read(folder.path()).is_err());
}

#[test]
fn files_to_begin_with_read_back_and_are_checked() {
    let head = format!("{HEAD}subject = \"aof\"\n");
    let file = |rest: &str| format!("{head}[[file]]\nname = \"appendonly.aof\"\n{rest}");
    let text = file("snapshot = \"append 1 sync\"\ncommands = \"batch 2x3 sync; append 4 sync\"\ncut = 5\n");
    let scenario = Scenario::parse(&text, "file").expect("well-formed");
    let [found] = &scenario.plan.files[..] else { panic!("one file") };
    assert_eq!((found.snapshot.len(), found.commands.len(), found.cut), (1, 2, 5));
    assert_eq!(Scenario::parse(&scenario.to_toml(), "file"), Ok(scenario));

    refused(&file(""), "4: a file has a snapshot, commands, or both");
    refused(&file("comands = \"append 1 sync\"\n"), "6: unknown key 'comands'; did you mean 'commands'?");
    refused(&file("commands = \"append 1 written\"\n"), "6: 'append 1 written' doesn't say what a file holds");
    refused(&file("commands = \"append 1 sync; scan\"\n"), "6: 'scan' doesn't say what a file holds");
    refused(&file("commands = \"append 268435457 sync\"\n"), "6: 'append 268435457 sync' is too much");
    refused(&file("commands = \"append 1 sync\"\ncut = -1\n"), "7: ");
    for name in ["", "..", "a/b", "notes.txt", "appendonlydir"] {
        let text = format!("{head}[[file]]\nname = \"{name}\"\ncommands = \"append 1 sync\"\n");
        refused(&text, &format!("5: '{name}' is no name for a file"));
    }
    let one = "[[file]]\nname = \"a\"\ncommands = \"append 1 sync\"\n";
    refused(&format!("{head}{one}{one}"), "8: a second file 'a'");
    refused(&format!("{HEAD}{one}"), "3: files to begin with are for command logs");
    let many: String = (0..=16).map(|number| one.replace("\"a\"", &format!("\"{number}\""))).collect();
    refused(&format!("{head}{many}"), "52: 17 files, at most 16");
}

//! The command line as others meet it: output, errors and exit codes of the program itself.
//!
//! 0 is a pass, 1 a violation, 2 a mistake of the caller or of the simulator; nothing else comes out.

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn sim(arguments: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// The program refuses these arguments, and says why.
#[track_caller]
fn refused(arguments: &[&str], why: &str) {
    let ran = sim(arguments);
    assert_eq!(ran.code, Some(2), "{arguments:?}: {}{}", ran.out, ran.err);
    assert!(ran.err.contains(why), "{arguments:?}: {}", ran.err);
    assert_eq!(ran.out, "", "{arguments:?}: errors go to stderr");
}

/// The report without the one number that depends on the machine.
fn timeless(report: &str) -> String {
    let line = |line: &str| match line.rsplit_once(", ") {
        Some((rest, speed)) if speed.ends_with(" cycles/s") => rest.to_owned(),
        _ => line.to_owned(),
    };
    report.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).expect("written");
    path.to_str().expect("text").to_owned()
}

#[test]
fn help_is_shown_when_asked_for_and_when_nothing_is() {
    let (asked, nothing) = (sim(&["--help"]), sim(&[]));
    assert_eq!((asked.code, nothing.code), (Some(0), Some(2)));
    for flag in ["--seed", "--seeds", "--scenario", "--subject", "--no-faults", "--plant", "--list", "--log", "--json"]
    {
        assert!(asked.out.contains(flag), "--help names {flag}");
        assert!(format!("{}{}", nothing.out, nothing.err).contains(flag), "help names {flag}");
    }
    assert!(asked.out.contains("scenarios") && asked.out.contains("Exit codes"));
}

#[test]
fn what_is_misspelt_is_refused_with_a_suggestion() {
    refused(&["--plant", "wal-seg-no-dirsnc", "--seed", "1"], "did you mean 'wal-seg-no-dirsync'?");
    refused(&["--plant", "flood", "--seed", "1"], "--list");
    refused(&["--sed", "1"], "--seed");
    refused(&["scenario"], "scenarios");
    refused(&["--subject", "wall", "--seed", "1"], "wal");
    refused(&["--backend", "oss", "--seed", "1"], "possible values: sim, os");
    refused(&["--log", "[[[", "--seed", "1"], "--log [[[");
}

#[test]
fn seeds_are_numbers_and_ranges_are_half_open() {
    refused(&["--seed", "one"], "invalid value 'one'");
    refused(&["--seed", "18446744073709551616"], "invalid value");
    for wrong in ["5", "1..=3", "1-3", "a..b", "..", "1..", "-1..3"] {
        refused(&[&format!("--seeds={wrong}")], "is not a range like 1..501");
    }
    refused(&["--seeds", "5..5"], "is empty; the end is not included");
    refused(&["--seeds", "5..3"], "is empty");
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    refused(&["--seed", "1", "--seeds", "1..3"], "cannot be used with");
    refused(&["--seed", "1", "--scenario", "x.toml"], "cannot be used with");
    refused(&["--list", "--seed", "1"], "cannot be used with");
    refused(&["--seed", "1", "scenarios"], "cannot be used with");
    refused(&["--json", "scenarios"], "cannot be used with");
    refused(&["scenarios", "--seed", "1"], "unexpected argument '--seed'");
    refused(&["--log", "engine=debug", "--seeds", "1..3"], "cannot be used with");
    refused(&["--plant", "wal-seg-no-dirsync"], "nothing to run");
    refused(&["--json"], "nothing to run");
    refused(&["--backend", "os", "--seed", "1"], "--backend os needs --dir");
    refused(&["--dir", "/nowhere", "--seed", "1"], "--dir is for --backend os");
    refused(&["--backend", "os", "--dir", "/nowhere", "--seed", "1", "--no-faults"], "--backend os");
    refused(&["--backend", "os", "--dir", "/nowhere", "--seed", "1", "--save", "x.toml"], "--backend os");
}

#[test]
fn the_list_names_everything_that_a_flag_or_a_file_may_name() {
    let ran = sim(&["--list"]);
    assert_eq!(ran.code, Some(0));
    let rows: Vec<(&str, &str)> = ran.out.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(' ')).collect();
    let names: BTreeSet<&str> = rows.iter().map(|(name, _)| *name).collect();
    let faults = sim::fault::Fault::ALL.map(sim::fault::Fault::name);
    let invariants = sim::invariant::ALL.iter().map(|invariant| invariant.id);
    let plants = engine::plant::Plant::ALL.iter().map(|plant| plant.name());
    for name in ["wal", "kill", "power-cut"].into_iter().chain(faults).chain(invariants).chain(plants) {
        assert!(names.contains(name), "{name} is not listed");
    }
    assert!(rows.iter().all(|(_, about)| !about.trim().is_empty()), "each has a line for a person");
}

#[test]
fn a_seed_prints_itself_first_its_verdict_last_and_always_the_same() {
    let ran = sim(&["--seed", "42"]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(ran.out.starts_with("seed: 42\n"));
    assert!(ran.out.ends_with("\nverdict: PASS\n"));
    assert!(ran.out.lines().count() <= 40 && ran.out.lines().all(|line| line.len() <= 100), "one screen:\n{}", ran.out);
    let hash = ran.out.lines().find_map(|line| line.strip_prefix("trace hash: ")).expect("a trace hash");
    assert!(hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
    assert_eq!(timeless(&ran.out), timeless(&sim(&["--seed", "42"]).out));
}

#[test]
fn a_fresh_seed_is_printed_and_replays() {
    let ran = sim(&["--seed"]);
    let seed = ran.out.lines().next().and_then(|line| line.strip_prefix("seed: ")).expect("the seed comes first");
    assert_eq!(timeless(&ran.out), timeless(&sim(&["--seed", seed]).out));
}

#[test]
fn json_is_one_object_per_seed_in_their_order_with_what_a_machine_needs() {
    let ran = sim(&["--seeds", "7..27", "--json"]);
    let objects: Vec<Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).expect("one object per line")).collect();
    assert_eq!(
        objects.iter().map(|object| object["seed"].as_u64()).collect::<Vec<_>>(),
        (7..27).map(Some).collect::<Vec<_>>()
    );
    for object in &objects {
        for key in ["drawn", "verdict", "invariant", "trace_hash", "fired", "checked", "reached", "replay"] {
            assert!(object.get(key).is_some(), "{key}");
        }
    }
    // A run alone, and the same run in the company of others on several threads.
    let alone: Value = serde_json::from_str(&sim(&["--seed", "15", "--json"]).out).expect("one object");
    assert_eq!(alone, objects[8]);
}

#[test]
fn a_planted_bug_is_found_named_and_replayed_by_the_printed_command() {
    let campaign = sim(&["--seeds", "1..101", "--plant", "wal-seg-no-dirsync"]);
    assert_eq!(campaign.code, Some(1), "{}{}", campaign.out, campaign.err);
    assert!(campaign.out.ends_with("verdict: VIOLATION\n"));
    let replay = campaign.out.lines().find_map(|line| line.trim().strip_prefix("replay: cargo run -p sim -- "));
    let replay: Vec<&str> = replay.expect("a command that replays the first one").split(' ').collect();
    let one = sim(&replay);
    assert_eq!(one.code, Some(1));
    assert!(one.out.contains("\nexpected: ") && one.out.contains("\nfound: "), "{}", one.out);
    assert!(one.out.contains(&format!("replay: cargo run -p sim -- {}\n", replay.join(" "))));
    assert!(one.out.lines().last().is_some_and(|line| line.starts_with("verdict: VIOLATION of I")));
    assert!(one.out.lines().count() <= 40, "one screen:\n{}", one.out);
}

#[test]
fn a_planted_bug_is_looked_for_where_it_is_and_not_reaching_it_is_no_pass() {
    let found = sim(&["--seeds", "1..31", "--plant", "ckpt-publish-early"]);
    assert_eq!(found.code, Some(1), "{}{}", found.out, found.err);
    assert!(found.out.contains(" --subject txn --plant ckpt-publish-early"), "the replay says where: {}", found.out);
    let elsewhere = sim(&["--seeds", "1..31", "--plant", "ckpt-publish-early", "--subject", "wal"]);
    assert_eq!(elsewhere.code, Some(2));
    let told = "planted bug ckpt-publish-early was never reached; its subject is txn\n";
    assert!(elsewhere.out.contains(told), "{}", elsewhere.out);
}

#[test]
fn a_planted_bug_changes_no_draw() {
    let drawn = |arguments: &[&str]| {
        let ran = sim(arguments);
        let objects = ran.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("an object"));
        objects.map(|object| object["drawn"].clone()).collect::<Vec<_>>()
    };
    let plain = drawn(&["--seeds", "1..31", "--json"]);
    assert_eq!(plain.len(), 30);
    assert_eq!(plain, drawn(&["--seeds", "1..31", "--json", "--plant", "wal-rotate-old-unsynced"]));
}

/// A campaign proves nothing about a rule that it never checked.
#[test]
fn a_campaign_too_small_to_meet_its_faults_says_so() {
    // A run in which some fault was on and never struck; a campaign of it alone proves nothing about that fault.
    let missed = (1..100_u64).find_map(|seed| {
        let ran = sim(&["--seeds", &format!("{seed}..{}", seed + 1)]);
        let line =
            ran.out.lines().find(|line| line.starts_with("fault ") && line.ends_with(" never fired"))?.to_owned();
        Some((ran, line))
    });
    let (ran, line) = missed.expect("one in a hundred seeds misses a fault");
    assert_eq!(ran.code, Some(2), "{line}");
    assert!(ran.out.lines().last().is_some_and(|last| last.starts_with("verdict: HARNESS ERROR")), "{}", ran.out);
}

#[test]
fn a_saved_seed_is_a_scenario_with_the_same_trace_and_overwrites_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let hash = |ran: &Ran| ran.out.lines().find(|line| line.starts_with("trace hash")).map(str::to_owned);
    for seed in ["17", "18446744073709551615"] {
        let path = folder.path().join(seed);
        let path = path.to_str().expect("text");
        let saved = sim(&["--seed", seed, "--save", path]);
        let again = sim(&["--scenario", path]);
        assert!(hash(&saved).is_some() && hash(&saved) == hash(&again), "{}{}", again.out, again.err);
        let before = fs::read(path).expect("saved");
        refused(&["--seed", "1", "--save", path], path);
        assert_eq!(fs::read(path).expect("still there"), before);
    }
}

#[test]
fn a_scenario_file_with_a_mistake_is_refused_with_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let head = "version = 1\nclaim = \"c\"\n";
    for (name, text, why) in [
        ("empty", String::new(), "empty:1: "),
        ("key", format!("{head}subjct = \"wal\"\n"), "key:3: unknown key 'subjct'; did you mean 'subject'?"),
        ("version", "version = 7\n".to_owned(), "version:1: version 7 is unknown"),
        (
            "op",
            format!("{head}[[life]]\nclients = [\"apend 1 sync\"]\nend = \"close\"\n"),
            "op:4: 'apend' is no operation",
        ),
        ("syntax", format!("{head}seed = \n"), "syntax:3: "),
        ("huge", "#".repeat((1 << 20) + 1), "larger than"),
    ] {
        let path = write(folder.path(), name, &text);
        refused(&["--scenario", &path], why);
    }
    refused(&["--scenario", "/nowhere.toml"], "/nowhere.toml: ");
    refused(&["--scenario", folder.path().to_str().expect("text")], "directory");
}

#[test]
fn scenarios_say_which_did_as_expected() {
    let folder = tempfile::tempdir().expect("a folder");
    refused(&["scenarios", "/nowhere"], "/nowhere: ");
    refused(&["scenarios", folder.path().to_str().expect("text")], "no scenario files");

    let life = "[[life]]\nclients = [\"append 1 sync\"]\nend = \"close\"\n";
    let scenario = |expect: &str| format!("version = 1\nclaim = \"c\"\n{life}{expect}");
    let run = || sim(&["scenarios", folder.path().to_str().expect("text")]);
    fs::create_dir(folder.path().join("deeper")).expect("a folder");
    write(folder.path(), "deeper/holds.toml", &scenario(""));
    write(folder.path(), "other.txt", "not a scenario");
    let ran = run();
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(ran.out.ends_with("scenarios: 1 as expected, 0 not, 0 unreadable\n"), "{}", ran.out);

    // One that can't be read is a mistake of the caller, whatever the others do.
    write(folder.path(), "broken.toml", "version = 1\n");
    let ran = run();
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("broken.toml:1: ") && ran.out.contains("1 unreadable"), "{}{}", ran.out, ran.err);

    // A close can't lose anything: the claimed bug is not seen, and that outweighs the unreadable one.
    let blind = scenario("[expect]\nfails_under = \"wal-seg-no-dirsync\"\nfails_with = [\"I26\"]\n");
    write(folder.path(), "blind.toml", &blind);
    let ran = run();
    assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("FAIL") && ran.out.contains("blind.toml --plant wal-seg-no-dirsync"), "{}", ran.out);
}

/// The loss of all of a quiet log's file is refused, and a scenario may hold that either way.
#[test]
fn a_scenario_can_expect_that_damage_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let life = "[[life]]\nclients = [\"append 1 sync\"]\nend = \"close\"\ndamage = [\"lose wal-00000001.seg\"]\n";
    for (refused, code) in [(true, 0), (false, 1)] {
        let text = format!("version = 1\nclaim = \"c\"\n{life}[expect]\nrefused = {refused}\n");
        let path = write(folder.path(), "lost.toml", &text);
        let ran = sim(&["scenarios", &path]);
        assert_eq!(ran.code, Some(code), "{}{}", ran.out, ran.err);
        assert!(code == 0 || ran.out.contains("expected the open after the damage to be allowed"), "{}", ran.out);
    }
}

#[test]
fn the_example_of_the_grammar_runs_both_ways() {
    let page = fs::read_to_string(repository().join("scenarios/README.md")).expect("the page");
    let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let folder = tempfile::tempdir().expect("a folder");
    let path = write(folder.path(), "example.toml", example);
    let ran = sim(&["scenarios", &path]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(example.contains("fails_under"));
    for kind in sim::workload::OP_WORDS {
        assert!(page.contains(&format!("`{kind}")), "the page explains {kind}");
    }
}

#[test]
fn a_reader_that_goes_away_changes_no_exit_code() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["--seeds", "1..301", "--json", "--plant", "wal-seg-no-dirsync"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut errors).expect("text");
    assert_eq!(child.wait().expect("ended").code(), Some(1), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
}

#[test]
fn the_log_goes_to_stderr_with_virtual_time() {
    let (silent, logged) = (sim(&["--seed", "42"]), sim(&["--seed", "42", "--log", "engine=debug"]));
    assert_eq!(timeless(&silent.out), timeless(&logged.out), "logging changes nothing");
    assert_eq!(silent.err, "");
    assert!(logged.err.lines().any(|line| line.contains(" us")), "{}", logged.err);
}

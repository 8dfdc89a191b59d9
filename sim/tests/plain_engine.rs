//! What a user of the library gets has no planted bug in it.

use std::{fs, path::Path, process::Command};

use engine::plant::Plant;

/// The library as `cargo build -p engine` makes it, without time spent on optimising what is only searched.
fn plain(target: &Path) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace");
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["build", "--quiet", "--offline", "--package", "engine", "--target-dir"])
        .arg(target)
        .args(["--config", "profile.dev.opt-level=0", "--config", "profile.dev.package.\"*\".opt-level=0"])
        .status()
        .expect("cargo runs");
    assert!(status.success());
    fs::read(target.join("debug/libengine.rlib")).expect("the library")
}

fn holds(library: &[u8], text: &str) -> bool {
    library.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_plain_dependency_has_no_planted_bug() {
    let plain = plain(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("plain"));
    let simulator = fs::read(env!("CARGO_BIN_EXE_sim")).expect("the simulator");
    assert!(holds(&plain, "poisoned"), "the words of the library are in the file at all");
    for plant in Plant::ALL {
        assert!(!holds(&plain, plant.name()), "{}", plant.name());
        assert!(holds(&simulator, plant.name()), "the search finds {} where it is", plant.name());
    }
}

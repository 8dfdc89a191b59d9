//! A measurement, in a process of its own.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, ExitCode, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{Result, Sizes, case};

/// What was measured, by name.
pub type Figures = BTreeMap<String, f64>;

/// One figure.
pub fn figure(name: &str, value: f64) -> (String, f64) {
    (name.to_owned(), value)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// What is done once, before all repeats.
    Prepare,
    /// What ends with the process killing itself.
    Crash,
    Measure,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    pub case: String,
    pub peer: String,
    pub step: Step,
    pub folder: PathBuf,
    pub sizes: Sizes,
}

/// The child's side: the figures go to standard output.
pub fn main(task: &str) -> ExitCode {
    let measured = serde_json::from_str(task).map_err(Into::into).and_then(|task: Task| case::perform(&task));
    match measured.and_then(|figures| Ok(serde_json::to_string(&figures)?)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The parent's side: runs it to its end, or until it is interrupted or `patience` ends; then it is killed.
pub fn run(task: &Task, interrupted: &AtomicBool, patience: Duration) -> Result<Figures> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--child").arg(serde_json::to_string(task)?).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let stop = interrupted.load(Ordering::Relaxed);
        if stop || began.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Err(if stop { "interrupted" } else { "it took too long; --patience gives it more time" }.into());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if task.step == Step::Crash && killed(status) {
        return Ok(Figures::new());
    }
    // (What a child prints fits into a pipe, so that it never waits for us.)
    let output = child.wait_with_output()?;
    if !status.success() || task.step == Step::Crash {
        return Err(format!("its process ended with {status}").into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn killed(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(rustix::process::Signal::KILL.as_raw())
}

/// Ends this process as `kill -9` does.
pub fn die() -> Result<Figures> {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    Err("a killed process goes on".into())
}

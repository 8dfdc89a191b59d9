//! The same workload on the real file system, in a child process that is killed with SIGKILL at random moments.
//!
//! The child tells the parent through a pipe what it issues and what is acknowledged; a line that was written before the
//! kill reaches the parent. The parent recovers the directory itself and judges with the same history and oracles: a kill
//! loses nothing that was acknowledged as written.

use std::{
    fmt::Write as _,
    fs,
    future::Future,
    io::{self, BufRead as _, BufReader, Write as _},
    ops::Range,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use engine::{
    env::{Dir, Entry, Env, File, OpenMode, OsDir, OsEnv, OsFile, OsLock, OsTask, block_on},
    plant::Plants,
    wal::{Durability, Wal},
};

use crate::{
    oracle::{Before, History},
    plan::{EngineOptions, Plan},
    prng::Prng,
    report::Violation,
    subject::Subject,
    workload::{self, Class, Op, Which},
};

/// How often each seed's child is started and killed.
const LIVES: u64 = 4;
/// The child is killed within this time after it began its operations, in microseconds.
const KILL_WITHIN_US: u64 = 12_000;
/// Payload of the large records that make a kill inside a write likely.
const LARGE_BYTES: u64 = 3 << 20;

fn options(plan: &Plan) -> EngineOptions {
    EngineOptions {
        segment_bytes: plan.engine.segment_bytes.max(1 << 20),
        buffer_bytes: 64 << 10,
        max_record_bytes: 8 << 20,
        ..plan.engine.clone()
    }
}

/// Runs `seeds` in new folders below `dir`; returns the exit code.
///
/// # Errors
/// What the machine says about the directory, the child or standard output.
pub fn campaign(seeds: Range<u64>, dir: &Path, json: bool) -> io::Result<u8> {
    fs::create_dir_all(dir)?;
    let mut totals = Totals::default();
    let mut out = io::stdout();
    let mut failed = 0;
    for seed in seeds {
        let folder = dir.join(format!("seed-{seed}"));
        if folder.exists() {
            let message = format!("{} exists already; remove it or choose another --dir", folder.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        fs::create_dir(&folder)?;
        let before = totals.clone();
        let verdict = run(seed, &folder, &mut totals)?;
        let replay = format!("cargo run -p sim -- --backend os --dir DIR --seed {seed}");
        let invariant = verdict.as_ref().err().map(|violation| violation.invariant);
        if json {
            let line = serde_json::json!({
                "seed": seed, "subject": "wal", "drawn": {"backend": "os"},
                "verdict": if verdict.is_ok() { "pass" } else { "violation" }, "invariant": invariant,
                "trace_hash": null, "fired": {"kill": totals.kills - before.kills},
                "checked": totals.checked_since(&before), "reached": {}, "replay": replay,
            });
            writeln!(out, "{line}")?;
        }
        match verdict {
            Ok(()) => fs::remove_dir_all(&folder)?,
            Err(violation) => {
                failed += 1;
                if !json {
                    writeln!(
                        out,
                        "seed {seed}: {}: expected {}; found {}\n  the directory is kept in {}\n  replay (timing differs): {replay}",
                        violation.invariant,
                        violation.expected,
                        violation.found,
                        folder.display()
                    )?;
                }
            }
        }
    }
    let exit = match (failed, totals.inside) {
        (0, 0) => 2,
        (0, _) => 0,
        _ => 1,
    };
    if !json {
        let checked: Vec<String> = totals.checked.iter().map(|(id, count)| format!("{id} {count}")).collect();
        writeln!(
            out,
            "ran: {} kills, {} acknowledgements, {} records recovered",
            totals.kills, totals.acknowledged, totals.recovered
        )?;
        writeln!(
            out,
            "kills inside an unfinished write: {} of {} ({} %)",
            totals.inside,
            totals.kills,
            totals.inside * 100 / totals.kills.max(1)
        )?;
        writeln!(out, "checked: {}", checked.join(", "))?;
        writeln!(
            out,
            "verdict: {}",
            ["PASS", "VIOLATION", "HARNESS ERROR: no kill came inside a write"][exit as usize]
        )?;
    }
    Ok(exit)
}

/// Numbers of a campaign.
#[derive(Clone, Default)]
struct Totals {
    kills: u64,
    inside: u64,
    acknowledged: u64,
    recovered: u64,
    checked: std::collections::BTreeMap<&'static str, u64>,
}

impl Totals {
    fn checked_since(&self, before: &Totals) -> std::collections::BTreeMap<&'static str, u64> {
        self.checked.iter().map(|(id, count)| (*id, count - before.checked.get(id).copied().unwrap_or(0))).collect()
    }
}

/// One seed: lives, each a child that is killed and a recovery that is judged.
fn run(seed: u64, folder: &Path, totals: &mut Totals) -> io::Result<Result<(), Violation>> {
    let plan = workload::draw(seed, "wal", true);
    let log = folder.join("log");
    let mut history = History::new(false, None);
    let mut delays = Prng::new(seed).fork("kill delays");
    let mut verdict = Ok(());
    for life in 0..LIVES {
        let delay = Duration::from_micros(200 + delays.below(KILL_WITHIN_US));
        let heard = child_until_killed(seed, life, history.next_append(), &log, delay)?;
        totals.kills += 1;
        totals.inside += u64::from(heard.writing);
        verdict = heard.replay(&mut history, totals).and_then(|()| judge(&log, &plan, &mut history, totals));
        if verdict.is_err() {
            break;
        }
    }
    for (id, count) in history.checked() {
        *totals.checked.entry(id).or_default() += count;
    }
    Ok(verdict)
}

fn judge(log: &Path, plan: &Plan, history: &mut History, totals: &mut Totals) -> Result<(), Violation> {
    if !log.exists() {
        return Ok(());
    }
    match block_on(<Wal<OsEnv> as Subject<OsEnv>>::open(OsEnv, log, &options(plan), Plants::default())) {
        Ok((_, recovered)) => {
            totals.recovered += recovered.records.len() as u64;
            history.recovered(&recovered, Before::Kill, 0)
        }
        Err(refusal) => history.refused(&refusal.message),
    }
}

/// What the parent heard from one child.
struct Heard {
    lines: Vec<String>,
    /// The kill came while a write call was under way.
    writing: bool,
}

#[expect(clippy::disallowed_methods, reason = "a real process is killed at a real moment")]
fn child_until_killed(seed: u64, life: u64, next: u64, log: &Path, delay: Duration) -> io::Result<Heard> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["child", &seed.to_string(), &life.to_string(), &next.to_string()])
        .arg(log)
        .stdout(Stdio::piped())
        .spawn()?;
    let Some(pipe) = child.stdout.take() else { return Err(io::Error::other("the child has no pipe")) };
    let mut reader = BufReader::new(pipe);
    let mut lines = Vec::new();
    let mut first = String::new();
    // The delay counts from the first word, so that starting up takes no part of it.
    reader.read_line(&mut first)?;
    thread::sleep(delay);
    child.kill()?;
    child.wait()?;
    lines.push(first);
    for line in reader.lines() {
        lines.push(line?);
    }
    let writing = lines.iter().filter(|line| *line == "w").count() > lines.iter().filter(|line| *line == "W").count();
    Ok(Heard { lines, writing })
}

impl Heard {
    /// Feeds what the child said into the history. `i` issues, `a` acknowledges, `r` rejects, `s` syncs.
    fn replay(&self, history: &mut History, totals: &mut Totals) -> Result<(), Violation> {
        let mut appends = std::collections::BTreeMap::new();
        for line in &self.lines {
            let mut words = line.split_whitespace();
            let kind = words.next();
            let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
            match (kind, numbers.as_slice()) {
                (Some("i"), [tag, class, sizes @ ..]) => {
                    let (append, _) = history.issue(sizes);
                    appends.insert(*tag, (append, *class));
                }
                (Some("a"), [tag, first]) => {
                    totals.acknowledged += 1;
                    if let Some((append, class)) = appends.get(tag) {
                        history.answered(*append, CLASSES[(*class % 3) as usize], &Ok(*first), 0)?;
                    }
                }
                (Some("s"), [next]) => history.synced(*next),
                _ => {}
            }
        }
        Ok(())
    }
}

const CLASSES: [Durability; 3] = [Durability::Buffered, Durability::Written, Durability::Sync];

/// The child: opens the log, runs its clients for ever, and says what it does on standard output.
///
/// # Errors
/// What the log or standard output says.
pub fn child(seed: u64, life: u64, next: u64, dir: &Path) -> io::Result<u8> {
    let plan = workload::draw(seed, "wal", true);
    let env = Telling { inner: OsEnv, telling: Arc::default() };
    let opened =
        block_on(<Wal<Telling> as Subject<Telling>>::open(env.clone(), dir, &options(&plan), Plants::default()));
    let (wal, recovered) = opened.map_err(|refusal| io::Error::other(refusal.message))?;
    // Payloads are numbered on from what earlier lives have issued; the parent counts in the same order.
    let issued = Mutex::new(Issuer { history: History::numbered_from(next), tag: 0 });
    drop(recovered);
    say("begin\n");
    env.telling.store(true, Ordering::Relaxed);
    let clients = plan.lives.first().map_or(1, |life| life.clients.len().max(1));
    thread::scope(|scope| {
        for client in 0..clients {
            let (wal, issued, plan) = (wal.clone(), &issued, &plan);
            let mut draws = Prng::new(seed).fork_nth("child life", life).fork_nth("client", client as u64);
            scope.spawn(move || {
                let ops: Vec<Op> = plan.lives.iter().flat_map(|life| &life.clients).flatten().copied().collect();
                let mut last = None;
                loop {
                    let op = if draws.chance(1, 3) {
                        Op::Append { bytes: LARGE_BYTES, class: Class::Written }
                    } else {
                        *draws.pick(&ops)
                    };
                    if block_on(act(&wal, issued, op, &mut last)).is_none() {
                        return;
                    }
                }
            });
        }
    });
    Ok(0)
}

/// Gives payloads in the order in which the parent will hear of them.
struct Issuer {
    history: History,
    tag: u64,
}

/// One operation; `None` once the log refuses work.
async fn act(wal: &Wal<Telling>, issued: &Mutex<Issuer>, op: Op, last: &mut Option<u64>) -> Option<()> {
    let (sizes, class) = match op {
        Op::Append { bytes, class } | Op::Abandon { bytes, class } => (vec![bytes], class),
        Op::Batch { count, bytes, class } => (vec![bytes; count as usize], class),
        Op::Sync => {
            let next = Subject::sync(wal).await.ok()?;
            say(&format!("s {next}\n"));
            return Some(());
        }
        Op::Wait => {
            let Some(lsn) = *last else { return Some(()) };
            Subject::wait(wal, lsn).await.ok()?;
            say(&format!("s {}\n", lsn + 1));
            return Some(());
        }
        Op::Read(Which::First | Which::Last | Which::Random) => {
            let Some(lsn) = *last else { return Some(()) };
            return Subject::read(wal, lsn).await.ok().map(drop);
        }
        // What is removed on purpose would need a second model of the truth here; the simulator has it.
        Op::TruncateFront { .. } | Op::TruncateBack { .. } | Op::Write { .. } => return Some(()),
        Op::Scan | Op::Follow | Op::Pause { .. } | Op::AppendTooLarge | Op::BatchEmpty => return Some(()),
        Op::Rewrite | Op::RewriteWait | Op::RewriteSoon | Op::Switch | Op::Txn(_) => return Some(()),
    };
    let index = match class {
        Class::Buffered => 0,
        Class::Written => 1,
        Class::Sync => 2,
    };
    let (tag, records) = {
        // The line goes out under the lock: payload numbers and lines have one order.
        let mut issued = issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.tag += 1;
        let (_, records) = issued.history.issue(&sizes);
        let mut line = format!("i {} {index}", issued.tag);
        for size in &sizes {
            // Writing to a string cannot fail.
            let _ = write!(line, " {size}");
        }
        line.push('\n');
        say(&line);
        (issued.tag, records)
    };
    let batch = records.len() != 1;
    let (first, _) = Subject::append(wal, &records, batch, CLASSES[index]).await.ok()?;
    *last = Some(first);
    say(&format!("a {tag} {first}\n"));
    Some(())
}

/// One line, one write call: a kill leaves whole lines, since they are shorter than a pipe's atomic unit.
fn say(line: &str) {
    // A parent that is gone needs no answer.
    let _ = rustix::io::write(rustix::stdio::stdout(), line.as_bytes());
}

/// The real machine, telling when a write call is under way.
#[derive(Clone)]
struct Telling {
    inner: OsEnv,
    telling: Arc<AtomicBool>,
}

impl Env for Telling {
    type Dir = TellingDir;
    type Task = OsTask;

    async fn dir(&self, path: &Path, create: bool) -> io::Result<TellingDir> {
        Ok(TellingDir { inner: self.inner.dir(path, create).await?, telling: self.telling.clone() })
    }

    fn wall_ns(&self) -> i64 {
        self.inner.wall_ns()
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }

    fn fill_random(&self, buf: &mut [u8]) {
        self.inner.fill_random(buf);
    }

    async fn yield_now(&self) {
        self.inner.yield_now().await;
    }

    fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> io::Result<OsTask> {
        self.inner.spawn(name, future)
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        self.inner.sleep(duration)
    }
}

#[derive(Clone)]
struct TellingDir {
    inner: OsDir,
    telling: Arc<AtomicBool>,
}

impl Dir for TellingDir {
    type File = TellingFile;
    type Lock = OsLock;

    async fn lock(&self) -> io::Result<OsLock> {
        self.inner.lock().await
    }

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<TellingFile> {
        Ok(TellingFile { inner: self.inner.open(name, mode).await?, telling: self.telling.clone() })
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name).await
    }

    async fn list(&self) -> io::Result<Vec<Entry>> {
        self.inner.list().await
    }

    async fn sync(&self) -> io::Result<()> {
        self.inner.sync().await
    }
}

struct TellingFile {
    inner: OsFile,
    telling: Arc<AtomicBool>,
}

impl File for TellingFile {
    async fn len(&self) -> io::Result<u64> {
        self.inner.len().await
    }

    async fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset).await
    }

    async fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let telling = self.telling.load(Ordering::Relaxed);
        if telling {
            say("w\n");
        }
        let result = self.inner.write_at(buf, offset).await;
        if telling {
            say("W\n");
        }
        result
    }

    fn begin_write_back(&self, offset: u64, bytes: u64) {
        self.inner.begin_write_back(offset, bytes);
    }

    async fn write_synced(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_synced(buf, offset).await
    }

    async fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data().await
    }

    async fn sync_all(&self) -> io::Result<()> {
        self.inner.sync_all().await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len).await
    }

    async fn sync_pages(&self) -> io::Result<()> {
        self.inner.sync_pages().await
    }
}

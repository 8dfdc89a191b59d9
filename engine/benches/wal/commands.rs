//! The command log beside the same baselines, and beside a live redis-server where there is one.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::FileExt, net::UnixStream},
    path::Path,
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use engine::{
    aof::{
        CommandLog,
        options::{Fsync, Options},
        resp,
    },
    env::{OsEnv, block_on},
    keyspace::Keyspace,
};

use super::{RECORD, Sizes};

/// Commands of a round.
const ROUND: u64 = 1000;
const COMMITTERS: u64 = 32;

fn create(dir: &Path, append_fsync: Fsync) -> CommandLog<OsEnv> {
    let options = Options { append_fsync, ..Options::default() };
    block_on(CommandLog::open(OsEnv, dir, options, &mut Keyspace::new())).expect("open").0
}

/// Every command that was appended is there after a reopen.
fn holds(dir: &Path, log: CommandLog<OsEnv>, keys: u64) {
    block_on(log.close()).expect("close");
    let mut loaded = Keyspace::new();
    block_on(CommandLog::verify(OsEnv, dir, Options::default(), &mut loaded)).expect("reopen");
    assert_eq!(loaded.databases()[0].len() as u64, keys);
}

fn key(number: u64) -> [u8; 13] {
    let mut key = *b"key:000000000";
    let (mut at, mut left) = (key.len(), number);
    while left > 0 {
        at -= 1;
        key[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    key
}

/// One thread, no sync, rounds of a thousand commands.
pub(crate) fn appended(dir: &Path, sizes: Sizes) -> f64 {
    let log = create(dir, Fsync::No);
    let mut writer = log.writer().expect("writer");
    let began = Instant::now();
    for number in 0..sizes.buffered {
        let key = key(number);
        let command: [&[u8]; 3] = [b"SET", &key, RECORD];
        if writer.try_append(0, &command).expect("append").is_none() {
            block_on(writer.append(0, &command)).expect("append");
        }
        if number % ROUND == ROUND - 1 {
            block_on(writer.round()).expect("round");
        }
    }
    let rate = sizes.buffered as f64 / began.elapsed().as_secs_f64();
    drop(writer);
    holds(dir, log, sizes.buffered);
    rate
}

/// The same through a handle that many threads may share.
pub(crate) fn appended_shared(dir: &Path, sizes: Sizes) -> f64 {
    let log = create(dir, Fsync::No);
    let began = Instant::now();
    block_on(async {
        for number in 0..sizes.buffered {
            log.append(0, &[b"SET".as_slice(), &key(number), RECORD]).await.expect("append");
            if number % ROUND == ROUND - 1 {
                log.round().await.expect("round");
            }
        }
    });
    let rate = sizes.buffered as f64 / began.elapsed().as_secs_f64();
    holds(dir, log, sizes.buffered);
    rate
}

/// The plain way: the same commands into a buffer behind a mutex, which is written at the end of a round. No checksums.
pub(crate) fn plain(dir: &Path, sizes: Sizes) -> f64 {
    let file = fs::File::create(dir.join("plain")).expect("a file");
    let buffer = Mutex::new(Vec::with_capacity(1 << 20));
    let mut at = 0;
    let began = Instant::now();
    for number in 0..sizes.buffered {
        let mut buffer = buffer.lock().expect("no panic");
        resp::encode(&mut buffer, &[b"SET".as_slice(), &key(number), RECORD]);
        if number % ROUND == ROUND - 1 {
            file.write_all_at(&buffer, at).expect("write");
            at += buffer.len() as u64;
            buffer.clear();
        }
    }
    sizes.buffered as f64 / began.elapsed().as_secs_f64()
}

/// Each command durable before the next, by many threads.
pub(crate) fn committed(dir: &Path, sizes: Sizes) -> f64 {
    let log = create(dir, Fsync::Always);
    let began = Instant::now();
    thread::scope(|scope| {
        for committer in 0..COMMITTERS {
            let log = &log;
            scope.spawn(move || {
                for number in 0..sizes.grouped / COMMITTERS {
                    let key = key(committer * 1_000_000 + number);
                    let command: [&[u8]; 3] = [b"SET", &key, RECORD];
                    block_on(async {
                        log.append(0, &command).await.expect("append");
                        log.round().await.expect("round");
                    });
                }
            });
        }
    });
    let rate = sizes.grouped as f64 / began.elapsed().as_secs_f64();
    assert!(log.stats().syncs < sizes.grouped);
    holds(dir, log, sizes.grouped);
    rate
}

/// As a server does it that executes the commands of 32 clients in one thread: all that came in, then one round for them.
pub(crate) fn committed_rounds(dir: &Path, sizes: Sizes) -> f64 {
    let log = create(dir, Fsync::Always);
    let mut writer = log.writer().expect("writer");
    let began = Instant::now();
    block_on(async {
        for number in 0..sizes.grouped {
            writer.append(0, &[b"SET".as_slice(), &key(number), RECORD]).await.expect("append");
            if number % COMMITTERS == COMMITTERS - 1 {
                writer.round().await.expect("round");
            }
        }
    });
    let rate = sizes.grouped as f64 / began.elapsed().as_secs_f64();
    drop(writer);
    assert!(log.stats().syncs >= sizes.grouped / COMMITTERS);
    holds(dir, log, sizes.grouped);
    rate
}

/// A directory of Redis's own kind with so many SETs, in no order.
fn directory(dir: &Path, keys: u64) {
    let inner = dir.join("appendonlydir");
    if inner.exists() {
        return;
    }
    fs::create_dir(&inner).expect("a folder");
    let mut bytes = Vec::new();
    for number in 0..keys {
        resp::encode(&mut bytes, &[b"SET".as_slice(), &key(number * 7919 % keys), RECORD]);
    }
    let manifest = "file appendonly.aof.1.base.aof seq 1 type b\nfile appendonly.aof.1.incr.aof seq 1 type i\n";
    fs::write(inner.join("appendonly.aof.1.base.aof"), "").expect("a file");
    fs::write(inner.join("appendonly.aof.1.incr.aof"), bytes).expect("a file");
    fs::write(inner.join("appendonly.aof.manifest"), manifest).expect("a file");
}

pub(crate) fn loaded(dir: &Path, sizes: Sizes) -> f64 {
    directory(dir, sizes.loaded);
    let mut keys = Keyspace::new();
    let began = Instant::now();
    block_on(CommandLog::verify(OsEnv, dir, Options::default(), &mut keys)).expect("load");
    let rate = sizes.loaded as f64 / began.elapsed().as_secs_f64();
    assert_eq!(keys.databases()[0].len() as u64, sizes.loaded);
    rate
}

pub(crate) fn rewritten(dir: &Path, sizes: Sizes) -> f64 {
    directory(dir, sizes.loaded);
    let mut keys = Keyspace::new();
    let options = Options { append_fsync: Fsync::No, ..Options::default() };
    let (log, _) = block_on(CommandLog::open(OsEnv, dir, options, &mut keys)).expect("open");
    let began = Instant::now();
    let rewritten = block_on(async { log.rewrite(|| keys.snapshot()).await.expect("rewrite").done().await });
    let rate = sizes.loaded as f64 / began.elapsed().as_secs_f64();
    assert!(rewritten.expect("rewritten").base > 100 * sizes.loaded);
    block_on(log.close()).expect("close");
    rate
}

/// Whether there is a server to compare with.
pub(crate) fn has_redis() -> bool {
    Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok()
}

/// A server on the directory; its log is `log`.
struct Server(std::process::Child);

impl Server {
    fn start(dir: &Path, appendfsync: &str) -> Server {
        let _ = fs::remove_file(dir.join("log"));
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "yes", "--aof-use-rdb-preamble", "no"])
            .args([
                "--auto-aof-rewrite-percentage",
                "0",
                "--appendfsync",
                appendfsync,
                "--unixsocket",
                "s",
                "--logfile",
                "log",
            ])
            .arg("--dir")
            .arg(dir)
            .current_dir(dir)
            .spawn()
            .expect("a server");
        let server = Server(child);
        server.says(dir, "ready to accept connections");
        server
    }

    fn connect(&self, dir: &Path) -> UnixStream {
        UnixStream::connect(dir.join("s")).expect("a socket")
    }

    /// Waits until the server's log has a line with `text`, and returns it.
    fn says(&self, dir: &Path, text: &str) -> String {
        loop {
            let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
            if let Some(line) = log.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Clients that wait for each answer, under `always`. The server has their requests and answers to do as well, in one thread.
pub(crate) fn redis_committed(dir: &Path, sizes: Sizes) -> f64 {
    let server = Server::start(dir, "always");
    let began = Instant::now();
    thread::scope(|scope| {
        for client in 0..COMMITTERS {
            let mut stream = server.connect(dir);
            scope.spawn(move || {
                let (mut request, mut answer) = (Vec::new(), [0; 5]);
                for number in 0..sizes.grouped / COMMITTERS {
                    request.clear();
                    resp::encode(&mut request, &[b"SET".as_slice(), &key(client * 1_000_000 + number), RECORD]);
                    stream.write_all(&request).expect("a request");
                    stream.read_exact(&mut answer).expect("an answer");
                    assert_eq!(&answer, b"+OK\r\n");
                }
            });
        }
    });
    sizes.grouped as f64 / began.elapsed().as_secs_f64()
}

/// As its own log says how long it took.
pub(crate) fn redis_loaded(dir: &Path, sizes: Sizes) -> f64 {
    directory(dir, sizes.loaded);
    let server = Server::start(dir, "no");
    let line = server.says(dir, "DB loaded from append only file");
    let seconds = line.split_whitespace().rev().nth(1).and_then(|text| text.parse::<f64>().ok()).expect("seconds");
    sizes.loaded as f64 / seconds.max(0.001)
}

/// From the request to the line that says that it is done.
pub(crate) fn redis_rewritten(dir: &Path, sizes: Sizes) -> f64 {
    directory(dir, sizes.loaded);
    let server = Server::start(dir, "no");
    let began = Instant::now();
    server.connect(dir).write_all(b"BGREWRITEAOF\r\n").expect("a request");
    server.says(dir, "Background AOF rewrite finished successfully");
    sizes.loaded as f64 / began.elapsed().as_secs_f64()
}

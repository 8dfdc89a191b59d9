//! The command log against a live redis-server: our directories load there, its directories load here, with equal content.
//!
//! Needs `redis-server` and `redis-check-aof` (Debian package `redis-server`, version 7). Where they are missing the tests say so
//! and pass, but not where `CI` is set.

#![expect(clippy::disallowed_methods, reason = "the test plays a process beside the log")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use engine::{
    aof::{
        CommandLog,
        options::{Fsync, Options},
    },
    env::{OsEnv, block_on},
    keyspace::{CommandError, Keyspace, ValueRef},
};

/// Whether the server is there; says so if it isn't.
fn missing() -> bool {
    let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "redis-server is missing; install the package redis-server");
    if !found {
        eprintln!("SKIPPED: redis-server is missing; install the package redis-server to run this test");
    }
    !found
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq)]
enum Reply {
    Text(Vec<u8>),
    Error(String),
    Number(i64),
    Nothing,
    List(Vec<Reply>),
}

impl Reply {
    fn text(&self) -> Vec<u8> {
        match self {
            Reply::Text(text) => text.clone(),
            other => panic!("no text: {other:?}"),
        }
    }

    fn texts(&self) -> Vec<Vec<u8>> {
        match self {
            Reply::List(items) => items.iter().map(Reply::text).collect(),
            other => panic!("no list: {other:?}"),
        }
    }
}

struct Server {
    process: Child,
    stream: BufReader<UnixStream>,
}

impl Server {
    /// A server on the data directory `path`; `None` if it refuses to start.
    fn start(path: &Path, preamble: bool) -> Option<Server> {
        let socket = path.join("s");
        let _ = fs::remove_file(&socket);
        let mut process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "yes", "--enable-debug-command", "yes"])
            .args(["--appendfsync", "no", "--daemonize", "no", "--loglevel", "warning"])
            .args(["--aof-use-rdb-preamble", if preamble { "yes" } else { "no" }])
            .arg("--dir")
            .arg(path)
            .arg("--unixsocket")
            .arg(&socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a server");
        for _ in 0..2000 {
            if let Ok(stream) = UnixStream::connect(&socket) {
                let mut server = Server { process, stream: BufReader::new(stream) };
                // While it loads it answers with an error.
                while matches!(server.ask(&[b"PING"]), Reply::Error(_)) {
                    thread::sleep(Duration::from_millis(2));
                }
                return Some(server);
            }
            if process.try_wait().expect("a process").is_some() {
                return None;
            }
            thread::sleep(Duration::from_millis(2));
        }
        panic!("the server does not answer");
    }

    fn ask(&mut self, command: &[&[u8]]) -> Reply {
        let mut bytes = Vec::new();
        engine::aof::resp::encode(&mut bytes, command);
        self.stream.get_mut().write_all(&bytes).expect("a server that listens");
        self.reply()
    }

    fn reply(&mut self) -> Reply {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).expect("an answer");
        if line.is_empty() {
            return Reply::Error("the server has ended".into());
        }
        let text = String::from_utf8_lossy(&line[1..line.len() - 2]).into_owned();
        let number = || text.parse::<i64>().expect("a number");
        match line[0] {
            b'+' => Reply::Text(text.into_bytes()),
            b'-' => Reply::Error(text),
            b':' => Reply::Number(number()),
            b'$' if number() < 0 => Reply::Nothing,
            b'$' => {
                let mut bytes = vec![0; number() as usize + 2];
                self.stream.read_exact(&mut bytes).expect("an answer");
                bytes.truncate(bytes.len() - 2);
                Reply::Text(bytes)
            }
            b'*' => Reply::List((0..number()).map(|_| self.reply()).collect()),
            other => panic!("no reply begins with {other}"),
        }
    }

    /// How long its log is.
    fn logged_bytes(&mut self) -> u64 {
        let info = String::from_utf8(self.ask(&[b"INFO", b"persistence"]).text()).expect("text");
        let size = info.lines().find_map(|line| line.strip_prefix("aof_current_size:")).expect("a size");
        size.parse().expect("a number")
    }

    fn digest(&mut self) -> Vec<u8> {
        self.ask(&[b"DEBUG", b"DIGEST"]).text()
    }

    /// Waits for a rewrite to end.
    fn rewrite(&mut self) {
        assert!(!matches!(self.ask(&[b"BGREWRITEAOF"]), Reply::Error(_)));
        loop {
            let info = String::from_utf8(self.ask(&[b"INFO", b"persistence"]).text()).expect("text");
            if info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0") {
                assert!(info.contains("aof_last_bgrewrite_status:ok"), "{info}");
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// All that it holds, as our data set holds it.
    fn dump(&mut self) -> Vec<Vec<(Vec<u8>, String)>> {
        (0..16_u32)
            .map(|number| {
                self.ask(&[b"SELECT", number.to_string().as_bytes()]);
                let mut keys = self.ask(&[b"KEYS", b"*"]).texts();
                keys.sort();
                keys.into_iter()
                    .map(|key| {
                        let content = self.content(&key);
                        (key, content)
                    })
                    .collect()
            })
            .collect()
    }

    fn content(&mut self, key: &[u8]) -> String {
        let kind = self.ask(&[b"TYPE", key]).text();
        let sorted = |mut texts: Vec<Vec<u8>>| {
            texts.sort();
            texts
        };
        let pairs = |texts: Vec<Vec<u8>>| {
            let mut pairs: Vec<_> = texts.chunks(2).map(<[Vec<u8>]>::to_vec).collect();
            pairs.sort();
            pairs
        };
        let content = match kind.as_slice() {
            b"string" => format!("{:?}", self.ask(&[b"GET", key]).text()),
            b"list" => format!("{:?}", self.ask(&[b"LRANGE", key, b"0", b"-1"]).texts()),
            b"set" => format!("{:?}", sorted(self.ask(&[b"SMEMBERS", key]).texts())),
            b"hash" => format!("{:?}", pairs(self.ask(&[b"HGETALL", key]).texts())),
            _ => {
                let scores = pairs(self.ask(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]).texts());
                let number = |text: &[u8]| String::from_utf8_lossy(text).parse::<f64>().expect("a score");
                let scores: Vec<_> = scores.into_iter().map(|pair| (pair[0].clone(), number(&pair[1]))).collect();
                format!("{scores:?}")
            }
        };
        match self.ask(&[b"PEXPIRETIME", key]) {
            Reply::Number(-1) => content,
            Reply::Number(time) => format!("{content} until {time}"),
            other => panic!("{other:?}"),
        }
    }

    fn stop(mut self) {
        let _ = self.stream.get_mut().write_all(b"*1\r\n$8\r\nSHUTDOWN\r\n");
        self.process.wait().expect("an end");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The same of our data set.
fn dump(keys: &Keyspace) -> Vec<Vec<(Vec<u8>, String)>> {
    let database = |database: &engine::keyspace::Database| {
        let mut all: Vec<_> = database
            .iter()
            .map(|(key, entry)| {
                let content = match entry.value {
                    ValueRef::String(value) => format!("{:?}", value.to_vec()),
                    ValueRef::List(list) => format!("{:?}", list.iter().map(|item| item.to_vec()).collect::<Vec<_>>()),
                    ValueRef::Set(set) => format!("{:?}", set.iter().map(|item| item.to_vec()).collect::<Vec<_>>()),
                    ValueRef::Hash(hash) => {
                        let pairs = hash.iter().map(|(field, value)| vec![field.to_vec(), value.to_vec()]);
                        format!("{:?}", pairs.collect::<Vec<_>>())
                    }
                    ValueRef::Sorted(sorted) => {
                        let mut scores: Vec<_> =
                            // (The server says 0 for -0.)
                            sorted.iter().map(|(member, score)| (member.to_vec(), if *score == 0.0 { 0.0 } else { *score })).collect();
                        scores.sort_by(|one, two| one.0.cmp(&two.0));
                        format!("{scores:?}")
                    }
                };
                let until = entry.expires_ms.map_or_else(String::new, |time| format!(" until {time}"));
                (key.to_vec(), content + &until)
            })
            .collect();
        all.sort();
        all
    };
    keys.databases().iter().map(database).collect()
}

/// Draws without a crate: the same numbers on every machine.
struct Draws(u64);

impl Draws {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn word(&mut self) -> String {
        let length = [0, 1, 5, 20, 70, 300][self.below(6) as usize];
        (0..length).map(|_| char::from(b'a' + self.below(26) as u8)).collect()
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }

    /// A number with a point or an exponent, mostly a small one.
    fn float(&mut self) -> String {
        let sign = self.one(&["", "-"]);
        let (whole, fraction, power) = (self.below(10_000), self.below(1_000_000), self.below(40));
        match self.below(8) {
            0 => format!("{sign}{whole}"),
            1 => format!("{sign}{whole}e{power}"),
            2 => format!("{sign}{whole}.5e-{power}"),
            3 => format!("{sign}.{fraction:017}"),
            4 => self.one(&["0x1f.8", "1e17", "1e-18", "nan", "inf", "-inf", "1e", "0", "1.", "x"]).into(),
            _ => format!("{sign}{whole}.{fraction}"),
        }
    }

    /// Mostly a command on keys of one type, so that it finds something; sometimes with one of another type.
    fn command(&mut self) -> Vec<String> {
        // In the sets `y` all scores are 0, so that ranges of members are defined.
        let kinds = ["s", "n", "l", "t", "h", "z", "y"];
        let kind = self.below(7) as usize;
        let mut key = |odds: u64| {
            let other = kind < 6 && self.below(odds) == 0;
            let kind = if other { self.below(6) as usize } else { kind };
            format!("{}{}", kinds[kind], self.below(8))
        };
        let (key, other, third) = (key(30), key(10), key(10));
        let (word, number) = (self.word(), self.below(100).to_string());
        let (time, past) = (4_000_000_000_000 + self.below(1000), self.one(&["-1", "0", "1"]));
        let when = self.one(&["", "", " NX", " XX", " GT", " LT", " XX GT", " XX LT", " NX XX", " GT LT"]);
        let end = self.one(&["LEFT", "RIGHT", "left", "LEFT", "RIGHT", "MIN"]);
        let opposite = self.one(&["LEFT", "RIGHT"]);
        let which = self.one(&["MIN", "MAX", "min", "MAX", "MIN", "LEFT"]);
        let count = self.one(&["", "", " COUNT 2", " COUNT 20", " COUNT 0"]);
        let keys = self.one(&["1 KEY", "2 OTHER KEY", "2 KEY OTHER", "3 OTHER THIRD KEY", "3 KEY KEY OTHER"]);
        let keys = keys.replace("KEY", &key).replace("OTHER", &other).replace("THIRD", &third);
        let many = keys[2..].to_owned();
        let text = match (kind, self.below(16)) {
            (_, 14..) => match self.below(14) {
                0 => format!("DEL {key}"),
                1 => format!("RENAME {key} {other}"),
                2 => format!("COPY {key} {other} REPLACE"),
                3 => format!("PEXPIREAT {key} {time}{when}"),
                4 => format!("PERSIST {key}"),
                5 => format!("MOVE {key} 5"),
                6 => format!("EXPIRE {key} -1{when}"),
                7 => format!("COPY {key} {other} DB {}", self.below(8)),
                8 => format!("RENAMENX {key} {other}"),
                9 => format!("UNLINK {key} {other}"),
                10 => format!("EXPIREAT {key} {}{when}", time / 1000),
                11 => format!("PEXPIREAT {key} {past}{when}"),
                12 => format!("COPY {key} {other}"),
                _ => "SWAPDB 5 6".into(),
            },
            (0, 0) => format!("APPEND {key} x{word}"),
            (0, 1) => format!("SETRANGE {key} {number} y{word}"),
            (0, 2) => format!("GETSET {key} z{word}"),
            (0, 3) => format!("MSET {key} a{word} {other} b{word}"),
            (0, 4) => format!("GETDEL {key}"),
            (0, 5) => format!("SETBIT {key} {} {}", self.below(900), self.below(2)),
            (0, 6 | 7) => self.bitfield(&key),
            (0, 8) => format!("BITOP {} {key} {many}", self.one(&["AND", "OR", "XOR", "not", "XOR"])),
            (0, 9) => format!("BITOP NOT {key} {other}"),
            (0, 10) => {
                let how = ["", " PERSIST", &format!(" PXAT {time}"), &format!(" PXAT {past}"), " EX", " EX 0"];
                format!("GETEX {key}{}", self.one(&how))
            }
            (0, 11) => {
                let how = ["KEEPTTL", "XX", "NX", "GET", "XX KEEPTTL", "NX GET", "NX XX", "EX 0"];
                let until =
                    [format!("PXAT {time}"), format!("PXAT {time} PXAT {time}"), format!("PXAT {time} KEEPTTL")];
                let how = if self.below(3) == 0 { &until[self.below(3) as usize] } else { self.one(&how) };
                format!("SET {key} v{word} {how}")
            }
            (0, 12) => format!("MSETNX {key} a{word} {other} b{word}"),
            (0, _) => format!("SET {key} v{word}"),
            (1, 0) => format!("INCRBY {key} {number}"),
            (1, 1) => format!("DECR {key}"),
            (1, 2) => format!("DECRBY {key} -{number}"),
            (1, 3) => format!("SET {key} {number}"),
            (1, 4..=7) => format!("INCRBYFLOAT {key} {}", self.float()),
            (1, 8) => format!("SET {key} {} KEEPTTL", self.float()),
            (1, 9) => self.bitfield(&key),
            (1, _) => format!("INCR {key}"),
            (2, 0) => format!("LPUSH {key} x{word} {number}"),
            (2, 1) => format!("LTRIM {key} {} 20", self.below(3)),
            (2, 2) => format!("RPOPLPUSH {key} {other}"),
            (2, 3) => format!("LINSERT {key} {} {number} y{word}", self.one(&["BEFORE", "AFTER", "at"])),
            (2, 4) => format!("LREM {key} {} {number}", self.one(&["1", "0", "-1", "-2"])),
            (2, 5) => format!("LMPOP {keys} {end}{count}"),
            (2, 6) => format!("BLMPOP 0.001 {keys} {end}{count}"),
            (2, 7) => format!("{} {many} 0.001", self.one(&["BLPOP", "BRPOP"])),
            (2, 8) => format!("BLMOVE {key} {other} {end} {opposite} {}", self.one(&["0.001", "-1", "x", "1e30"])),
            (2, 9) => match self.below(4) {
                0 => format!("BRPOPLPUSH {key} {other} 0.001"),
                1 => format!("LMOVE {key} {other} {end} {opposite}"),
                2 => format!("{} {key} {}", self.one(&["LPUSHX", "RPUSHX"]), number),
                _ => format!("LSET {key} {} s{word}", self.one(&["0", "-1", "5", "x"])),
            },
            (2, 10) => format!("{} {key} {}", self.one(&["LPOP", "RPOP"]), self.one(&["0", "1", "3", "-1"])),
            (2, _) => format!("RPUSH {key} {number} z{word}"),
            (3, 0) => format!("SREM {key} {number}"),
            (3, 1) => format!("SUNIONSTORE {key} {key} {other}"),
            (3, 2) => format!("SMOVE {key} {other} {number}"),
            (3, 3) => format!("SINTERSTORE {third} {key} {other}"),
            (3, 4) => format!("SDIFFSTORE {third} {key} {other}"),
            (3, _) => format!("SADD {key} {number} m{word}"),
            (4, 0) => format!("HDEL {key} {number}"),
            (4, 1) => format!("HINCRBY {key} counter {number}"),
            (4, 2..=4) => format!("HINCRBYFLOAT {key} {} {}", self.one(&["counter", "f1", "float"]), self.float()),
            (4, 5) => format!("HSETNX {key} {number} v{word}"),
            (4, _) => format!("HSET {key} {number} v{word} f{number} w{word}"),
            (5, 0) => format!("ZREM {key} m{number}"),
            (5, 1) => format!("ZINCRBY {key} {} m{number}", self.one(&["0.1", "0", "inf", "-inf", "nan"])),
            (5, 2) => format!("ZREMRANGEBYRANK {key} 30 -1"),
            (5, 3) => format!("{} {key}{}", self.one(&["ZPOPMIN", "ZPOPMAX"]), self.one(&["", " 2", " 0", " -1"])),
            (5, 4..=6) => {
                // The sets of members count as well.
                let keys = keys.replace("z1", "t1").replace("z2", "t2");
                let weights = self.one(&["", "", " WEIGHTS 2 0.1 3", " WEIGHTS 0.5 inf", " WEIGHTS 7", " WEIGHTS x"]);
                let how = self.one(&["", "", " AGGREGATE MIN", " AGGREGATE MAX", " aggregate sum", " AGGREGATE"]);
                let name = self.one(&["ZUNIONSTORE", "ZINTERSTORE", "ZDIFFSTORE"]);
                let options = if name == "ZDIFFSTORE" { String::new() } else { format!("{weights}{how}") };
                format!("{name} {third} {keys}{options}")
            }
            (5, 7) => {
                let range = self.one(&["0 -1", "1 5", "-5 -2", "5 1", "0 20 REV", "0 5 LIMIT 0 1", "0 5 LIMIT 1 -1"]);
                format!("ZRANGESTORE {third} {key} {range}")
            }
            (5, 8) => {
                let range = self.one(&["(10 50", "-inf +inf", "50 10", "10 (10", "0x1 1e400", "x 1"]);
                let options = self.one(&["", "", " REV", " LIMIT 1 2", " LIMIT 0 -1", " LIMIT -1 2", " LIMIT 1"]);
                format!("ZRANGESTORE {third} {key} {range} BYSCORE{options}")
            }
            (5, 9) => format!("ZREMRANGEBYSCORE {key} ({number} {}", self.one(&["60", "(90", "inf", "nan"])),
            (5, 10) => format!("ZMPOP {keys} {which}{count}"),
            (5, 11) => match self.below(2) {
                0 => format!("BZMPOP 0.001 {keys} {which}{count}"),
                _ => format!("{} {many} 0.001", self.one(&["BZPOPMIN", "BZPOPMAX"])),
            },
            (5, 12) => {
                let how = self.one(&["NX", "XX", "GT", "LT", "CH", "INCR", "XX GT", "NX INCR", "GT INCR", "NX XX"]);
                format!("ZADD {key} {how} {number}.5 m{}", self.below(100))
            }
            (5, _) => format!("ZADD {key} {number}.{} m{number} -1e{} n{number}", self.below(1000), self.below(300)),
            (6, 0..=2) => {
                let range = self.one(&["[m2 (m5", "(m4 [m7", "- [m3", "[m8 +", "+ -", "m1 m2", "[m2 [m2"]);
                format!("ZREMRANGEBYLEX {key} {range}")
            }
            (6, 3..=5) => {
                let range = self.one(&["[m2 (m5", "- +", "+ -", "[m7 (m3", "[m1", "m1 +", "+ [m4"]);
                let options = self.one(&["", " REV", " REV", " LIMIT 1 2", " LIMIT 2 -1 REV", " LIMIT 0 0"]);
                format!("ZRANGESTORE {third} {key} {range} BYLEX{options}")
            }
            (6, 6) => format!("ZMPOP {keys} {which}{count}"),
            (_, _) => format!("ZADD {key} 0 m{number} 0 m{word}"),
        };
        text.split(' ').map(str::to_owned).collect()
    }

    fn bitfield(&mut self, key: &str) -> String {
        let mut text = format!("BITFIELD {key}");
        for _ in 0..self.below(4) {
            let bits = self.below(63) + 1;
            let kind = self.one(&["i", "u"]);
            let at = if self.below(3) == 0 { format!("#{}", self.below(8)) } else { self.below(300).to_string() };
            let number = match self.below(4) {
                0 => self.one(&["9223372036854775807", "-9223372036854775808", "-1", "x"]).to_owned(),
                _ => (self.below(1000) as i64 - 500).to_string(),
            };
            text += &match self.below(6) {
                0 => format!(" GET {kind}{bits} {at}"),
                1 | 2 => format!(" SET {kind}{bits} {at} {number}"),
                3 => format!(" OVERFLOW {}", self.one(&["WRAP", "SAT", "sat"])),
                // The first one makes room: where Redis makes it for what fails, it doesn't log it.
                4 => format!(" OVERFLOW WRAP SET u1 800 1 OVERFLOW FAIL INCRBY {kind}{bits} {at} {number}"),
                _ => format!(" INCRBY {kind}{bits} {at} {number}"),
            };
        }
        text
    }
}

/// Executes a command at a time at which only what was over long ago is, and collects what is to be logged.
fn execute(keys: &mut Keyspace, command: &[String], unit: &mut Vec<Vec<Vec<u8>>>) -> Result<bool, CommandError> {
    keys.execute_logged(&bytes(command), 1_700_000_000_000, |_, command| {
        unit.push(command.iter().map(|word| word.to_vec()).collect());
    })
}

fn bytes(command: &[String]) -> Vec<&[u8]> {
    command.iter().map(|word| word.as_bytes()).collect()
}

/// What `redis-check-aof` says of the log in a data directory.
fn accepted_by_the_tool(path: &Path) -> bool {
    let manifest = path.join("appendonlydir/appendonly.aof.manifest");
    let output = Command::new("redis-check-aof").arg(manifest).output().expect("the tool");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    output.status.success()
}

#[test]
fn our_directory_loads_in_redis_with_equal_content() {
    if missing() {
        return;
    }
    for (number, options) in [
        Options { append_fsync: Fsync::No, ..Options::default() },
        Options { append_fsync: Fsync::No, checksums: false, aof_timestamp_enabled: true, ..Options::default() },
        Options { append_fsync: Fsync::EverySecond, ring_page_bytes: 100, split_large: true, ..Options::default() },
        Options {
            append_fsync: Fsync::Always,
            append_filename: "appendonly.aof".into(),
            ring_page_bytes: 100,
            ..Options::default()
        },
    ]
    .into_iter()
    .enumerate()
    {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut server = Server::start(theirs.path(), true).expect("a server");
        let mut keys = Keyspace::new();
        let mut draws = Draws(number as u64);
        block_on(async {
            // Two of them are switched on for data in memory, of which there is none yet.
            let (log, mut rewrite) = if number % 2 == 0 {
                (CommandLog::open(OsEnv, ours.path(), options, &mut keys).await.unwrap().0, None)
            } else {
                let (log, first) = CommandLog::enable(OsEnv, ours.path(), options, || keys.snapshot()).await.unwrap();
                (log, Some(first))
            };
            for round in 0..400 {
                let database = draws.below(3) as u32;
                let select = [b"SELECT".to_vec(), database.to_string().into_bytes()];
                let select: Vec<&[u8]> = select.iter().map(Vec::as_slice).collect();
                server.ask(&select);
                keys.load(&select).unwrap();
                let mut unit = Vec::new();
                for _ in 0..1 + draws.below(4) {
                    let command = draws.command();
                    let (theirs, ours) = (server.ask(&bytes(&command)), execute(&mut keys, &command, &mut unit));
                    assert_eq!(matches!(theirs, Reply::Error(_)), ours.is_err(), "{command:?}: {theirs:?} {ours:?}");
                }
                let unit: Vec<&[Vec<u8>]> = unit.iter().map(Vec::as_slice).collect();
                if !unit.is_empty() {
                    log.append_unit(database, &unit).await.unwrap();
                }
                log.round().await.unwrap();
                if round % 150 == 149 {
                    // On a slow disk the one before may still run; then this one would be refused.
                    if let Some(rewrite) = rewrite.take() {
                        rewrite.done().await.unwrap();
                    }
                    rewrite = Some(log.rewrite(|| keys.snapshot()).await.unwrap());
                }
            }
            rewrite.expect("two rewrites").done().await.unwrap();
            log.close().await.unwrap();
        });
        let expected = server.digest();
        assert_eq!(server.dump(), dump(&keys));
        server.stop();
        assert!(accepted_by_the_tool(ours.path()));
        let mut server = Server::start(ours.path(), true).expect("our directory");
        assert_eq!(server.digest(), expected, "options {number}");
        server.stop();
    }
}

#[test]
fn a_command_is_to_be_logged_where_redis_logs_it() {
    if missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), true).expect("a server");
    let (mut keys, mut draws) = (Keyspace::new(), Draws(11));
    let mut before = server.logged_bytes();
    for number in 0..15_000 {
        let command = draws.command();
        let ours = keys.execute(&bytes(&command), 1_700_000_000_000);
        let theirs = server.ask(&bytes(&command));
        let after = server.logged_bytes();
        let same = (matches!(theirs, Reply::Error(_)), after > before) == (ours.is_err(), ours == Ok(true));
        assert!(same, "{command:?}: {theirs:?}, {} bytes logged; ours: {ours:?}", after - before);
        before = after;
        if number % 100 == 0 {
            let (theirs, ours) = (server.dump(), dump(&keys));
            for (theirs, ours) in theirs.iter().flatten().zip(ours.iter().flatten()) {
                assert_eq!(theirs, ours, "after {number} commands");
            }
            assert_eq!(theirs.len(), ours.len());
            server.ask(&[b"SELECT", b"0"]);
        }
    }
}

#[test]
fn no_command_that_writes_is_unknown() {
    if missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), true).expect("a server");
    let names = server.ask(&[b"COMMAND", b"LIST", b"FILTERBY", b"ACLCAT", b"write"]).texts();
    for name in names.iter().map(|name| name.split(|letter| *letter == b'|').next().unwrap_or(name)) {
        let internal = [b"pfdebug".as_slice(), b"restore-asking"].contains(&name);
        let known = !matches!(Keyspace::new().load(&[name]), Err(CommandError::Unknown(_)));
        assert_eq!(known, !internal, "{}", String::from_utf8_lossy(name));
    }
}

#[test]
fn a_directory_of_redis_loads_here_goes_on_and_loads_there_again() {
    if missing() {
        return;
    }
    for preamble in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let mut draws = Draws(77);
        let mut server = Server::start(folder.path(), preamble).expect("a server");
        for round in 0..600 {
            server.ask(&[b"SELECT", draws.below(3).to_string().as_bytes()]);
            let command = draws.command();
            let multi = draws.below(5) == 0;
            if multi {
                server.ask(&[b"MULTI"]);
                server.ask(&bytes(&draws.command()));
            }
            server.ask(&bytes(&command));
            if multi {
                server.ask(&[b"EXEC"]);
            }
            if round == 300 {
                server.rewrite();
            }
        }
        let expected = server.dump();
        server.stop();
        let mut keys = Keyspace::new();
        block_on(async {
            let (log, loaded) = CommandLog::open(OsEnv, folder.path(), Options::default(), &mut keys).await.unwrap();
            assert_eq!((dump(&keys), loaded.failures), (expected, 0), "preamble {preamble}");
            for _ in 0..200 {
                let command = draws.command();
                keys.load(&[b"SELECT", b"2"]).unwrap();
                let mut unit = Vec::new();
                let _ = execute(&mut keys, &command, &mut unit);
                for command in unit {
                    log.append(2, &command).await.unwrap();
                }
            }
            log.close().await.unwrap();
        });
        // There and back: what the server appends behind our batches has no checksum, and is loaded all the same.
        assert!(accepted_by_the_tool(folder.path()));
        let mut server = Server::start(folder.path(), preamble).expect("our directory");
        assert_eq!(server.dump(), dump(&keys));
        for _ in 0..50 {
            server.ask(&[b"SELECT", b"1"]);
            server.ask(&bytes(&draws.command()));
        }
        let expected = server.dump();
        server.stop();
        let mut keys = Keyspace::new();
        let (log, _) = block_on(CommandLog::open(OsEnv, folder.path(), Options::default(), &mut keys)).unwrap();
        assert_eq!(dump(&keys), expected);
        block_on(log.close()).unwrap();
    }
}

#[test]
fn a_file_that_was_cut_at_any_byte_holds_the_same_there_and_here() {
    if missing() {
        return;
    }
    let mut log = Vec::new();
    let mut draws = Draws(5);
    let encode = |log: &mut Vec<u8>, command: &str| {
        engine::aof::resp::encode(log, &command.split(' ').collect::<Vec<_>>());
    };
    encode(&mut log, "SELECT 0");
    while log.len() < 1900 {
        let unit = draws.below(3) == 0;
        if unit {
            encode(&mut log, "MULTI");
        }
        for _ in 0..1 + draws.below(3) {
            encode(&mut log, &format!("INCR n{}", draws.below(3)));
            encode(&mut log, &format!("APPEND s{} {}", draws.below(3), draws.below(1_000_000)));
        }
        if unit {
            encode(&mut log, "EXEC");
        }
    }
    // A server ends when it is asked to load a torn file again, so each cut gets one of its own: two at a time.
    thread::scope(|scope| {
        for half in 0..2 {
            let log = &log;
            scope
                .spawn(move || (1..=log.len()).filter(|cut| cut % 2 == half).for_each(|cut| same_content(&log[..cut])));
        }
    });
}

/// Loads a log of these bytes in a server and here.
fn same_content(log: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("appendonlydir");
    fs::create_dir(&inner).unwrap();
    let file = |name: &str| -> PathBuf { inner.join(name) };
    fs::write(file("appendonly.aof.1.base.aof"), "").unwrap();
    fs::write(file("appendonly.aof.1.incr.aof"), log).unwrap();
    let manifest = "file appendonly.aof.1.base.aof seq 1 type b\nfile appendonly.aof.1.incr.aof seq 1 type i\n";
    fs::write(file("appendonly.aof.manifest"), manifest).unwrap();
    let mut keys = Keyspace::new();
    let verified = block_on(CommandLog::verify(OsEnv, folder.path(), Options::default(), &mut keys)).unwrap();
    assert_eq!(verified.files[1].1.length, log.len() as u64);
    let mut server = Server::start(folder.path(), false).expect("a server that takes what was cut off");
    assert_eq!(dump(&keys), server.dump(), "cut at {}", log.len());
}

#[test]
fn a_log_of_one_file_becomes_a_directory_that_redis_loads() {
    if missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut log = Vec::new();
    for number in 0..100 {
        engine::aof::resp::encode(&mut log, &["RPUSH", "list", &number.to_string()]);
    }
    fs::write(folder.path().join("appendonly.aof"), &log).unwrap();
    let mut keys = Keyspace::new();
    block_on(async {
        let (log, _) = CommandLog::open(OsEnv, folder.path(), Options::default(), &mut keys).await.unwrap();
        keys.load(&[b"RPUSH", b"list", b"later"]).unwrap();
        log.append(0, &["RPUSH", "list", "later"]).await.unwrap();
        log.close().await.unwrap();
    });
    assert!(!folder.path().join("appendonly.aof").exists() && accepted_by_the_tool(folder.path()));
    let mut server = Server::start(folder.path(), false).expect("our directory");
    assert_eq!(server.dump(), dump(&keys));
    server.stop();
}

#[test]
fn the_same_commands_give_the_same_bytes() {
    if missing() {
        return;
    }
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = Server::start(theirs.path(), false).expect("a server");
    let mut draws = Draws(9);
    let options = Options { checksums: false, append_fsync: Fsync::No, ..Options::default() };
    let mut keys = Keyspace::new();
    block_on(async {
        let (log, _) = CommandLog::open(OsEnv, ours.path(), options, &mut keys).await.unwrap();
        for _ in 0..300 {
            let database = draws.below(3) as u32;
            let number = database.to_string();
            server.ask(&[b"SELECT", number.as_bytes()]);
            keys.load(&[b"SELECT", number.as_bytes()]).unwrap();
            let command = draws.command();
            // What the server logs in other words than it was given.
            let reworded = [
                "BLMOVE",
                "BLMPOP",
                "BLPOP",
                "BRPOP",
                "BRPOPLPUSH",
                "BZMPOP",
                "BZPOPMAX",
                "BZPOPMIN",
                "EXPIRE",
                "EXPIREAT",
                "GETDEL",
                "GETEX",
                "GETSET",
                "HINCRBYFLOAT",
                "INCRBYFLOAT",
                "LMPOP",
                "PEXPIREAT",
                "SET",
                "SETRANGE",
                "ZINCRBY",
                "ZMPOP",
                "ZPOPMAX",
                "ZPOPMIN",
            ];
            if reworded.contains(&command[0].as_str()) {
                continue;
            }
            server.ask(&bytes(&command));
            if keys.execute(&bytes(&command), 1_700_000_000_000) == Ok(true) {
                log.append(database, &command).await.unwrap();
            }
        }
        log.close().await.unwrap();
    });
    server.stop();
    let increment = |folder: &Path| fs::read(folder.join("appendonlydir/appendonly.aof.1.incr.aof")).unwrap();
    let (ours, theirs) = (increment(ours.path()), increment(theirs.path()));
    let same = ours.iter().zip(&theirs).take_while(|(one, two)| one == two).count();
    let near = |bytes: &[u8]| {
        String::from_utf8_lossy(&bytes[same.saturating_sub(120)..bytes.len().min(same + 80)]).into_owned()
    };
    assert!(ours == theirs, "from byte {same} on, ours:\n{}\ntheirs:\n{}", near(&ours), near(&theirs));
}

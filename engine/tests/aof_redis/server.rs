//! A live redis-server, and its tool.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// Whether the server is there; says so if it isn't.
pub(crate) fn missing() -> bool {
    let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "redis-server is missing; install the package redis-server");
    if !found {
        eprintln!("SKIPPED: redis-server is missing; install the package redis-server to run this test");
    }
    !found
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Text(Vec<u8>),
    Error(String),
    Number(i64),
    Nothing,
    List(Vec<Reply>),
}

impl Reply {
    pub(crate) fn text(&self) -> Vec<u8> {
        match self {
            Reply::Text(text) => text.clone(),
            other => panic!("no text: {other:?}"),
        }
    }

    pub(crate) fn texts(&self) -> Vec<Vec<u8>> {
        match self {
            Reply::List(items) => items.iter().map(Reply::text).collect(),
            other => panic!("no list: {other:?}"),
        }
    }
}

pub(crate) struct Server {
    process: Child,
    stream: BufReader<UnixStream>,
}

impl Server {
    /// A server on the data directory `path`; `None` if it refuses to start.
    pub(crate) fn start(path: &Path, preamble: bool) -> Option<Server> {
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

    pub(crate) fn ask(&mut self, command: &[&[u8]]) -> Reply {
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
    pub(crate) fn logged_bytes(&mut self) -> u64 {
        let info = String::from_utf8(self.ask(&[b"INFO", b"persistence"]).text()).expect("text");
        let size = info.lines().find_map(|line| line.strip_prefix("aof_current_size:")).expect("a size");
        size.parse().expect("a number")
    }

    pub(crate) fn digest(&mut self) -> Vec<u8> {
        self.ask(&[b"DEBUG", b"DIGEST"]).text()
    }

    /// Waits for a rewrite to end.
    pub(crate) fn rewrite(&mut self) {
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
    pub(crate) fn dump(&mut self) -> Vec<Vec<(Vec<u8>, String)>> {
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

    pub(crate) fn stop(mut self) {
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

/// What `redis-check-aof` says of the log in a data directory.
pub(crate) fn accepted_by_the_tool(path: &Path) -> bool {
    let manifest = path.join("appendonlydir/appendonly.aof.manifest");
    let output = Command::new("redis-check-aof").arg(manifest).output().expect("the tool");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    output.status.success()
}

//! Random commands, the same in each run.

/// Draws without a crate: the same numbers on every machine.
pub(crate) struct Draws(pub(crate) u64);

impl Draws {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
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
    pub(crate) fn command(&mut self) -> Vec<String> {
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

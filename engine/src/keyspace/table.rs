//! The commands by name.

use super::{CommandError, Run, bits, hashes, keys, lists, sets, sorted, strings};

/// What change keys here, in the order of their names.
const COMMANDS: &[(&str, Run)] = &[
    ("APPEND", strings::append),
    ("BITFIELD", bits::bitfield),
    ("BITOP", bits::bitop),
    ("BLMOVE", lists::blmove),
    ("BLMPOP", lists::blmpop),
    ("BLPOP", lists::blpop),
    ("BRPOP", lists::brpop),
    ("BRPOPLPUSH", lists::brpoplpush),
    ("BZMPOP", sorted::bzmpop),
    ("BZPOPMAX", sorted::bzpopmax),
    ("BZPOPMIN", sorted::bzpopmin),
    ("COPY", keys::copy),
    ("DECR", strings::decr),
    ("DECRBY", strings::decrby),
    ("DEL", keys::del),
    ("EXPIRE", keys::expire),
    ("EXPIREAT", keys::expireat),
    ("FLUSHALL", keys::flushall),
    ("FLUSHDB", keys::flushdb),
    ("GETDEL", strings::getdel),
    ("GETEX", strings::getex),
    ("GETSET", strings::getset),
    ("HDEL", hashes::hdel),
    ("HINCRBY", hashes::hincrby),
    ("HINCRBYFLOAT", hashes::hincrbyfloat),
    ("HMSET", hashes::hset),
    ("HSET", hashes::hset),
    ("HSETNX", hashes::hsetnx),
    ("INCR", strings::incr),
    ("INCRBY", strings::incrby),
    ("INCRBYFLOAT", strings::incrbyfloat),
    ("LINSERT", lists::linsert),
    ("LMOVE", lists::lmove),
    ("LMPOP", lists::lmpop),
    ("LPOP", lists::lpop),
    ("LPUSH", lists::lpush),
    ("LPUSHX", lists::lpushx),
    ("LREM", lists::lrem),
    ("LSET", lists::lset),
    ("LTRIM", lists::ltrim),
    ("MOVE", keys::moves),
    ("MSET", strings::mset),
    ("MSETNX", strings::msetnx),
    ("PERSIST", keys::persist),
    ("PEXPIRE", keys::pexpire),
    ("PEXPIREAT", keys::pexpireat),
    ("PSETEX", strings::psetex),
    ("RENAME", keys::rename),
    ("RENAMENX", keys::renamenx),
    ("RPOP", lists::rpop),
    ("RPOPLPUSH", lists::rpoplpush),
    ("RPUSH", lists::rpush),
    ("RPUSHX", lists::rpushx),
    ("SADD", sets::sadd),
    ("SDIFFSTORE", sets::sdiffstore),
    ("SELECT", keys::select),
    ("SET", strings::set),
    ("SETBIT", bits::setbit),
    ("SETEX", strings::setex),
    ("SETNX", strings::setnx),
    ("SETRANGE", strings::setrange),
    ("SINTERSTORE", sets::sinterstore),
    ("SMOVE", sets::smove),
    ("SREM", sets::srem),
    ("SUNIONSTORE", sets::sunionstore),
    ("SWAPDB", keys::swapdb),
    ("UNLINK", keys::del),
    ("ZADD", sorted::zadd),
    ("ZDIFFSTORE", sorted::zdiffstore),
    ("ZINCRBY", sorted::zincrby),
    ("ZINTERSTORE", sorted::zinterstore),
    ("ZMPOP", sorted::zmpop),
    ("ZPOPMAX", sorted::zpopmax),
    ("ZPOPMIN", sorted::zpopmin),
    ("ZRANGESTORE", sorted::zrangestore),
    ("ZREM", sorted::zrem),
    ("ZREMRANGEBYLEX", sorted::zremrangebylex),
    ("ZREMRANGEBYRANK", sorted::zremrangebyrank),
    ("ZREMRANGEBYSCORE", sorted::zremrangebyscore),
    ("ZUNIONSTORE", sorted::zunionstore),
];

/// What only ask; in the order of their names.
const READS: &[&str] = &[
    "BITCOUNT",
    "BITFIELD_RO",
    "BITPOS",
    "DBSIZE",
    "ECHO",
    "EXISTS",
    "EXPIRETIME",
    "GET",
    "GETBIT",
    "GETRANGE",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HRANDFIELD",
    "HSCAN",
    "HSTRLEN",
    "HVALS",
    "KEYS",
    "LCS",
    "LINDEX",
    "LLEN",
    "LPOS",
    "LRANGE",
    "MGET",
    "PEXPIRETIME",
    "PING",
    "PTTL",
    "RANDOMKEY",
    "SCAN",
    "SCARD",
    "SDIFF",
    "SINTER",
    "SINTERCARD",
    "SISMEMBER",
    "SMEMBERS",
    "SMISMEMBER",
    "SRANDMEMBER",
    "SSCAN",
    "STRLEN",
    "SUBSTR",
    "SUNION",
    "TOUCH",
    "TTL",
    "TYPE",
    "ZCARD",
    "ZCOUNT",
    "ZDIFF",
    "ZINTER",
    "ZINTERCARD",
    "ZLEXCOUNT",
    "ZMSCORE",
    "ZRANDMEMBER",
    "ZRANGE",
    "ZRANGEBYLEX",
    "ZRANGEBYSCORE",
    "ZRANK",
    "ZREVRANGE",
    "ZREVRANGEBYLEX",
    "ZREVRANGEBYSCORE",
    "ZREVRANK",
    "ZSCAN",
    "ZSCORE",
    "ZUNION",
];

/// What change keys in Redis 7.0, and can't here; in the order of their names.
const UNSUPPORTED: &[&str] = &[
    "EVAL",
    "EVALSHA",
    "FCALL",
    "FUNCTION",
    "GEOADD",
    "GEORADIUS",
    "GEORADIUSBYMEMBER",
    "GEOSEARCHSTORE",
    "MIGRATE",
    "PFADD",
    "PFCOUNT",
    "PFMERGE",
    "PUBLISH",
    "RESTORE",
    "SCRIPT",
    "SORT",
    "SPOP",
    "SPUBLISH",
    "XACK",
    "XADD",
    "XAUTOCLAIM",
    "XCLAIM",
    "XDEL",
    "XGROUP",
    "XREADGROUP",
    "XSETID",
    "XTRIM",
];

/// The command of this name in upper or lower case, with the name in upper case.
pub(super) fn find(given: &[u8]) -> Result<(&'static str, Run), CommandError> {
    let name = String::from_utf8_lossy(given).to_ascii_uppercase();
    let name = name.as_str();
    if let Ok(at) = COMMANDS.binary_search_by_key(&name, |(name, _)| *name) {
        return Ok(COMMANDS[at]);
    }
    if let Ok(at) = READS.binary_search(&name) {
        return Ok((READS[at], keys::reads));
    }
    let unsupported = UNSUPPORTED.binary_search(&name).is_ok();
    Err(if unsupported { CommandError::Unsupported(name.to_owned()) } else { CommandError::Unknown(name.to_owned()) })
}

/// The names of what changes keys here.
#[cfg(test)]
pub(super) fn names() -> Vec<&'static str> {
    COMMANDS.iter().map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_in_one_table() {
        let commands: Vec<&str> = COMMANDS.iter().map(|(name, _)| *name).collect();
        for table in [&commands, READS, UNSUPPORTED] {
            assert!(table.is_sorted(), "{table:?}");
            assert!(table.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')));
        }
        let mut all = [&commands, READS, UNSUPPORTED].concat();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(find(b"nosuch").err(), Some(CommandError::Unknown("NOSUCH".into())));
        assert_eq!(find(b"XADD").err(), Some(CommandError::Unsupported("XADD".into())));
    }
}

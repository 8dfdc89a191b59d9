//! A data set of your own behind a command log: how many of each thing are in stock. It says how a command is executed, and how
//! all of it is written anew. `cargo run -p engine --example own_data`

use std::{collections::BTreeMap, convert::Infallible, error::Error, sync::Arc};

use engine::{
    aof::{
        CommandLog, Commands, Snapshot,
        load::DataSet,
        options::{Fsync, Options},
    },
    env::{OsEnv, block_on},
    keyspace::CommandError,
};

/// Things by name. A clone is a pointer, so a snapshot stops nobody.
#[derive(Clone, Debug, Default, PartialEq)]
struct Stock(Arc<BTreeMap<Vec<u8>, i64>>);

impl DataSet for Stock {
    /// Commands are too small to be prepared in the background.
    type Prepared = Infallible;

    fn load_prepared(&mut self, _: &mut dyn Iterator<Item = Infallible>) {}

    /// `MOVE thing count`; the count may be negative.
    fn load(&mut self, command: &[&[u8]]) -> Result<bool, CommandError> {
        match command {
            [name, thing, count] if name.eq_ignore_ascii_case(b"MOVE") => {
                let number = || CommandError::Number("MOVE".into());
                let count: i64 =
                    std::str::from_utf8(count).ok().and_then(|text| text.parse().ok()).ok_or_else(number)?;
                let there = self.0.get(*thing).copied().unwrap_or(0);
                let there = there.checked_add(count).filter(|there| *there >= 0).ok_or_else(number)?;
                Arc::make_mut(&mut self.0).insert(thing.to_vec(), there);
                Ok(count != 0)
            }
            // The log says in which database a command belongs. Here there is one.
            [name, database] if name.eq_ignore_ascii_case(b"SELECT") && *database == b"0" => Ok(false),
            _ => Err(CommandError::Unknown(String::from_utf8_lossy(&command.join(&b' ')).into_owned())),
        }
    }

    fn begin_file(&mut self) {}
}

/// What is left to write of the stock as it was.
struct Written {
    stock: Stock,
    after: Option<Vec<u8>>,
}

impl Snapshot for Written {
    fn write(&mut self, commands: &mut Commands) -> bool {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = self.after.as_deref().map_or(Unbounded, Excluded);
        let Some((thing, count)) = self.stock.0.range::<[u8], _>((from, Unbounded)).next() else { return false };
        commands.add(0, &[b"MOVE".as_slice(), thing, count.to_string().as_bytes()]);
        self.after = Some(thing.clone());
        true
    }
}

async fn run(path: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let options = Options { append_fsync: Fsync::Always, ..Options::default() };
    let mut stock = Stock::default();
    let (log, _) = CommandLog::open(OsEnv, path, options.clone(), &mut stock).await?;
    for number in 0..1000 {
        let command: [&[u8]; 3] = [b"MOVE", if number % 3 == 0 { b"nuts" } else { b"bolts" }, b"5"];
        // First it is executed: what fails is not logged.
        if stock.load(&command)? {
            log.append(0, &command).await?;
        }
        if number % 100 == 99 {
            log.round().await?; // what came before survives a power cut now
        }
    }
    let before = log.bytes();
    log.rewrite(|| Written { stock: stock.clone(), after: None }).await?.done().await?;
    println!("{:?}; the log had {before} bytes, and has {}", stock.0.values(), log.bytes());
    log.close().await?;

    let mut again = Stock::default();
    let (log, loaded) = CommandLog::open(OsEnv, path, options, &mut again).await?;
    assert_eq!((&again, loaded.failures), (&stock, 0));
    Ok(log.close().await?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    block_on(run(folder.path()))
}

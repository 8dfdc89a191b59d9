//! A store on the real file system, for more than one file of tests.

use std::{ops::Bound, path::Path};

use engine::{
    env::OsEnv,
    txn::{
        Store, Table, Tx,
        options::{Options, Sync, TxOptions},
        storage::Direction,
    },
};

pub(crate) type Db = Store<OsEnv>;

pub(crate) async fn open(path: &Path, options: &Options) -> Db {
    <Store<OsEnv>>::open(OsEnv, path, options.clone()).await.expect("it opens").0
}

pub(crate) fn instant() -> Options {
    Options { sync: Sync::Instant, ..Options::default() }
}

pub(crate) async fn all(tx: &mut Tx<OsEnv>, table: &Table, direction: Direction) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut scan = tx.scan(table, (Bound::Unbounded, Bound::Unbounded), direction).expect("it begins");
    let mut found = Vec::new();
    while let Some((key, value)) = scan.next().await.expect("it goes on") {
        found.push((key.to_vec(), value.to_vec()));
    }
    found
}

pub(crate) async fn keys(store: &Db, table: &Table) -> Vec<String> {
    let mut tx = store.begin(TxOptions::default()).unwrap();
    let all = all(&mut tx, table, Direction::Forward).await;
    all.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
}

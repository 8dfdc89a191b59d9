//! A log behind a server: each line that a client sends is appended, and answered with its LSN once it is durable. Clients
//! share their syncs. `cargo run -p engine --example server -- 127.0.0.1:7700`, then `nc 127.0.0.1 7700`; without an address
//! it talks to itself and ends.
//!
//! The log's futures do their system calls when they are polled, so each connection runs where blocking is allowed; no other
//! runtime support is needed.

use std::{error::Error, net::SocketAddr};

use engine::{
    env::OsEnv,
    wal::{Durability, Lsn, Options, Wal},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address: Option<SocketAddr> = std::env::args().nth(1).map(|address| address.parse()).transpose()?;
    let folder = tempfile::tempdir()?;
    let (wal, report) = Wal::open(OsEnv, &folder.path().join("log"), Options::new()).await?;
    println!("{} records recovered", report.records());

    let listener = TcpListener::bind(address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))).await?;
    let at = listener.local_addr()?;
    println!("listening on {at}");
    let server = tokio::spawn(serve(listener, wal.clone()));
    if address.is_some() {
        server.await?;
        return Ok(());
    }

    // Somebody follows the log while others append.
    let mut tail = wal.tail(Lsn(1));
    let follower = tokio::task::spawn_blocking(move || {
        engine::env::block_on(async {
            let mut seen = 0;
            while let Ok(Some(_)) = tail.next().await {
                seen += 1;
            }
            seen
        })
    });
    let clients: Vec<_> = (0..8).map(|number| tokio::spawn(client(at, number))).collect();
    for client in clients {
        client.await??;
    }
    server.abort();
    let stats = wal.stats();
    println!("{} appends in {} syncs", stats.appends, stats.syncs);
    wal.close().await?;
    println!("the follower saw {} records", follower.await?);
    Ok(())
}

async fn serve(listener: TcpListener, wal: Wal<OsEnv>) {
    while let Ok((stream, _)) = listener.accept().await {
        let wal = wal.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(stream, wal).await {
                eprintln!("a client failed: {error}");
            }
        });
    }
}

async fn connection(mut stream: TcpStream, wal: Wal<OsEnv>) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        // Waiting for the disk blocks this thread, so the runtime is told to use another one for the rest.
        let lsn = tokio::task::block_in_place(|| engine::env::block_on(wal.append(line, Durability::Sync)))?;
        writer.write_all(format!("{lsn}\n").as_bytes()).await?;
    }
    Ok(())
}

async fn client(at: SocketAddr, number: u32) -> Result<(), std::io::Error> {
    let mut stream = TcpStream::connect(at).await?;
    let (reader, mut writer) = stream.split();
    let mut answers = BufReader::new(reader).lines();
    for line in 0..50 {
        writer.write_all(format!("client {number} line {line}\n").as_bytes()).await?;
        answers.next_line().await?;
    }
    Ok(())
}

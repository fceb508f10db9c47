//! Fills an etcd with what real clusters hold; see `harness::fill`.
#![expect(clippy::print_stdout, reason = "a program that says what it did")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use etcd_client::{Client, ConnectOptions};
use harness::etcd::tls_options;
use harness::fill::Fill;
use harness::tls::Identity;
use harness::{Error, Result};

/// Fills an etcd with Kubernetes-like objects, many versions of keys, deleted
/// keys, a compaction, leases, users, roles and a value of 1 MiB.
#[derive(Parser)]
#[command(name = "etcd-fill")]
struct Args {
    /// Client URLs, separated by commas.
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    /// The authority to trust.
    #[arg(long)]
    cacert: Option<PathBuf>,
    /// A client certificate.
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// The client certificate's key.
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// Objects to make, or to make in each round with --database-bytes.
    #[arg(long, default_value_t = 5000)]
    objects: u64,
    /// Go on, round by round, until the database file has this size.
    #[arg(long)]
    database_bytes: Option<i64>,
    /// The same seed gives the same content.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Requests at once; with more than one, revisions differ from run to run.
    #[arg(long, default_value_t = 1)]
    parallel: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    match fill(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("etcd-fill: {error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn fill(args: Args) -> Result<()> {
    let start = Instant::now();
    let mut options = ConnectOptions::new();
    if let Some(ca) = &args.cacert {
        let identity = args.cert.zip(args.key).map(|(cert, key)| Identity { cert, key });
        options = options.with_tls(tls_options(ca, identity.as_ref())?);
    }
    let client = Client::connect(&args.endpoints, Some(options))
        .await
        .map_err(|source| Error::because("connecting", source))?;
    let fill = Fill::new(args.seed, args.objects).parallel(args.parallel);
    let filled = match args.database_bytes {
        Some(bytes) => fill.until(&client, bytes).await?,
        None => fill.run(&client).await?,
    };
    println!(
        "filled in {:.1} s: revision {}, compacted at {}, {} keys, {} leases, {} users, {} roles",
        start.elapsed().as_secs_f64(),
        filled.revision,
        filled.compacted,
        filled.keys,
        filled.leases,
        filled.users,
        filled.roles
    );
    Ok(())
}

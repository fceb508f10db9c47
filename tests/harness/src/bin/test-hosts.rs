//! Test hosts to try things on by hand; see `harness::hosts`.
#![expect(clippy::print_stdout, reason = "a program that says where its hosts are")]

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use harness::Result;
use harness::hosts::etcd::{EtcdHosts, Kind};
use harness::hosts::kubeadm::{Kubeadm, Size};
use harness::hosts::{Hosts, Image};

/// Starts hosts, says how to reach them, and ends them when standard input ends.
#[derive(Parser)]
#[command(name = "test-hosts")]
struct Args {
    /// What runs on them.
    what: What,
    /// How many; a kubeadm control plane has one node or three.
    #[arg(default_value_t = 3)]
    count: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Debian 12 alone.
    Debian12,
    /// Debian 13 alone.
    Debian13,
    /// Debian 12's etcd 3.4.
    Etcd34,
    /// Debian 13's etcd 3.5, with TLS.
    Etcd35,
    /// etcd 3.6 from a unit with arguments.
    EtcdUnit,
    /// etcd 3.6 from a unit with a YAML file.
    EtcdYaml,
    /// A control plane.
    Kubeadm,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("test-hosts: {error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let etcd = async |kind| EtcdHosts::start(kind, args.count).await;
    match args.what {
        What::Debian12 => stay(&Hosts::builder().hosts(args.count, Image::Debian12).start().await?),
        What::Debian13 => stay(&Hosts::builder().hosts(args.count, Image::Debian13).start().await?),
        What::Etcd34 => stay(etcd(Kind::Debian12).await?.hosts()),
        What::Etcd35 => stay(etcd(Kind::Debian13).await?.hosts()),
        What::EtcdUnit => stay(etcd(Kind::Unit).await?.hosts()),
        What::EtcdYaml => stay(etcd(Kind::ConfigFile).await?.hosts()),
        What::Kubeadm => {
            let size = if args.count == 1 { Size::One } else { Size::Three };
            stay(Kubeadm::start(size).await?.hosts());
        }
    }
    Ok(())
}

/// Says where the hosts are and waits for the end of standard input.
fn stay(hosts: &Hosts) {
    for host in hosts.all() {
        println!("ssh -F {} {}", hosts.ssh_config().display(), host.name());
    }
    let _ = io::stdout().flush();
    // Bytes that come are nobody's; an error is an end too.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
}

//! `etcdvault preflight`.

use std::fmt::Write as _;

use clap::Args;

use super::args::{ConnectionArgs, KeyArgs, VaultArgs};
use super::cluster::cluster_name;
use super::exit_code::Exit;
use super::human::{plural, printable};
use super::output::Output;
use super::settings::{connector, meant, open_vault, reach};
use crate::config::{Choice, Setup};
use crate::operation::cluster::{self, Checked, Reached};
use crate::operation::preflight::Finding;
use crate::operation::state::nodes;
use crate::operation::vocabulary::{NodeName, Severity};
use crate::operation::{Failure, FailureKind};

/// Look whether a cluster could be brought back now
///
/// Asks all nodes at once and changes nothing: every pair of nodes on the ports of peers
/// and clients, room, mount points, owners, versions, quota, certificates and their
/// addresses, clocks, ports that somebody else holds, alarms, members that are on none of
/// the nodes. With a backup also whether it is this cluster's, and what it holds that
/// stands in the way. `restore cluster` does the same before it shows a plan.
///
/// Exit code 3 when something stands in the way.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault preflight --cluster prod\n  \
    etcdvault preflight latest --vault /srv/etcd-vault\n  \
    etcdvault preflight latest --json | jq -r '.findings[] | [.severity, .node, .what] | @tsv'")]
pub(crate) struct PreflightArgs {
    /// The backup to be restored: an id or its start, latest, or a time [default: none, only
    /// the nodes are looked at]
    #[arg(value_name = "BACKUP")]
    backup: Option<String>,
    /// The cluster [default: the only one of the configuration] [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// A node [default: all of the cluster in etcdvault.toml]
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    /// A node that is gone for good
    #[arg(long = "dead", value_name = "NAME")]
    dead: Vec<String>,
    #[command(flatten)]
    vault: VaultArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Names of nodes as they are typed.
pub(super) fn node_names(texts: &[String]) -> Result<Vec<NodeName>, Failure> {
    let names = texts.iter().map(|text| NodeName::new(text.as_str()));
    let names: Result<Vec<NodeName>, _> = names.collect();
    names.map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))
}

/// How others know a node besides: as the configuration has it.
pub(super) fn reached_as<'a>(choice: &'a Choice<'_>) -> impl Fn(&NodeName) -> Vec<String> + 'a {
    |name| {
        let nodes = choice.file().map(|file| &file.config.nodes);
        let node = nodes.and_then(|nodes| nodes.get(name.as_str()));
        node.and_then(|node| node.address.clone()).into_iter().collect()
    }
}

/// What was found, on stderr: what stands in the way and warnings under quiet, too.
pub(super) fn complain(findings: &[Finding], output: &Output) {
    for finding in findings {
        for line in lines(finding).lines() {
            match finding.severity {
                Severity::Note => output.note(line),
                Severity::Warning | Severity::Problem => output.complaint(line),
            }
        }
    }
}

fn lines(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Problem => "PROBLEM",
    };
    let node = finding.node.as_ref().map_or_else(String::new, |node| format!("{node}: "));
    let mut text = format!("{severity}: {node}{}\n", printable(&finding.what));
    if let Some(hint) = &finding.hint {
        let _ = writeln!(text, "  hint: {}", printable(hint));
    }
    text
}

fn report(checked: &Checked) -> String {
    let mut text: String = checked.findings.iter().map(lines).collect();
    if !text.is_empty() {
        text.push('\n');
    }
    let looked = &checked.looked;
    let _ = writeln!(
        text,
        "looked at {} ({}, {}), {} between them, {}",
        plural(looked.nodes, "node"),
        plural(looked.members, "member"),
        plural(looked.api_servers, "API server"),
        plural(looked.connections, "connection"),
        plural(looked.certificates, "certificate"),
    );
    let problems =
        checked.findings.iter().filter(|found| found.severity == Severity::Problem).count();
    text.push_str(&match problems {
        0 => "nothing stands in the way\n".to_owned(),
        1 => "1 problem stands in the way of a restore\n".to_owned(),
        more => format!("{more} problems stand in the way of a restore\n"),
    });
    text
}

pub(crate) async fn run(
    args: PreflightArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let dead = node_names(&args.dead)?;
    let settings = reach(choice.connection(&args.connection.raw()).await?, output).await?;
    let found = match &args.backup {
        Some(text) => {
            let repository = open_vault(&args.vault, Some(&args.keys), &choice, output).await?;
            let finding = cluster::find(&repository, meant(&choice, text)?, text);
            let backup = output.waiting("looking for the backup", finding).await?;
            Some((repository, backup))
        }
        None => None,
    };
    let nodes = output.waiting("connecting", nodes::each(&choice, &args.nodes)).await?;
    let connector = connector(&settings, &nodes, output).await?;
    let known_as = reached_as(&choice);
    let reached = Reached {
        nodes: &nodes,
        known_as: &known_as,
        keepers: Vec::new(),
        connector: &connector,
        connection: &settings,
    };
    let backup = found.as_ref().map(|(repository, backup)| (repository, backup));
    let name = cluster_name(choice.meant(), backup.map(|(_, backup)| &backup.manifest.cluster))?;
    let checking = cluster::check(backup, &name, &dead, &reached);
    let checked = output.waiting("looking at the nodes", checking).await?;
    let value = serde_json::json!({ "looked": checked.looked, "findings": checked.findings });
    output.result(&value, || report(&checked));
    let blocked = checked.findings.iter().any(|found| found.severity == Severity::Problem);
    Ok(if blocked { Exit::Partial } else { Exit::Ok })
}

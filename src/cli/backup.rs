//! `etcdvault backup`.

use std::sync::Arc;

use super::args::{BackupArgs, ProofArg, StrategyArg};
use super::exit_code::Exit;
use super::human::{count, duration, of, printable, size};
use super::output::Output;
use super::settings::{
    allows_unencrypted, connector, labels, open_vault, reach, state_paths, write_options,
};
use crate::config::{Choice, Setup};
use crate::operation::Failure;
use crate::operation::backup::{BackupOptions, BackupReport, Strategy, backup};
use crate::operation::interrupt::Interrupt;
use crate::operation::proof::{Policy, Verdict};
use crate::operation::state::nodes;
use crate::operation::state::roots::Places;
use crate::operation::state::save::SaveOptions;
use crate::operation::vocabulary::{Node, Proof, ProofState, Reach};
use crate::types::{ConnectionSettings, Endpoint};

pub(crate) async fn run(
    args: BackupArgs,
    output: &Output,
    setup: &Setup,
    mut interrupt: Interrupt,
) -> Result<Exit, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let connection = choice.connection(&args.connection.raw()).await?;
    let cluster = choice.backup_name(&connection);
    let elsewhere = connection.elsewhere;
    let settings = interrupt.or("no backup was stored", reach(connection, output)).await??;
    let nodes = interrupt.or("no backup was stored", nodes_of(&args, &choice, elsewhere)).await??;
    if let (Some(nodes), true) = (unmet(&args, &choice, elsewhere), nodes.is_empty()) {
        output.complaint(&format!(
            "warning: no state is stored: this machine is none of the cluster's nodes ({nodes}); \
             [node.NAME] takes an address where its name is not this machine's"
        ));
    }
    let with = if nodes.is_empty() && !elsewhere {
        // Where no state is stored the nodes are only asked for their certificates.
        interrupt.or("no backup was stored", certificate_nodes(&settings, &choice)).await??
    } else {
        nodes.clone()
    };
    let connecting = connector(&settings, &with, output);
    let connector = interrupt.or("no backup was stored", connecting).await??;
    let opening = open_vault(&args.vault, Some(&args.keys), &choice, output);
    let repository = interrupt.or("no backup was stored", opening).await??;
    let save = SaveOptions {
        extra: state_paths(&choice, &[]),
        places: Places::default(),
        allow_unencrypted: allows_unencrypted(&choice, args.allow_unencrypted),
        data: false,
        write: write_options(&args.write, &args.vault, &choice),
    };
    let options = BackupOptions {
        cluster,
        strategy: match args.endpoint_strategy {
            StrategyArg::Follower => Strategy::Follower,
            StrategyArg::Leader => Strategy::Leader,
            StrategyArg::First => Strategy::First,
        },
        reach: if args.local_only { Reach::Given } else { Reach::AllMembers },
        proof: match args.proof {
            ProofArg::All => Policy::All,
            ProofArg::Source => Policy::Source,
            ProofArg::None => Policy::None,
        },
        labels: labels(&args.labels),
        nodes: (!nodes.is_empty()).then_some((nodes, save)),
        write: write_options(&args.write, &args.vault, &choice),
    };
    let events = output.events();
    let report =
        backup(&repository, &connector, &settings, &options, &events, &mut interrupt).await?;
    Ok(tell(&report, output))
}

/// The nodes whose state is stored with the snapshot: those that were named, else those
/// of the configuration, unless flags or variables name the members of another cluster.
async fn nodes_of(
    args: &BackupArgs,
    choice: &Choice<'_>,
    elsewhere: bool,
) -> Result<Vec<Arc<dyn Node>>, Failure> {
    let configured = choice.entry().is_some_and(|(_, cluster)| !cluster.nodes.is_empty());
    if args.no_state {
        return Ok(Vec::new());
    }
    if !args.nodes.is_empty() {
        return nodes::each(choice, &args.nodes).await;
    }
    match configured && !elsewhere {
        true if args.local_only => nodes::local_only(choice).await,
        true => nodes::each(choice, &[]).await,
        false => Ok(Vec::new()),
    }
}

/// The nodes of the configuration of which `--local-only` takes the one that is this
/// machine.
fn unmet(args: &BackupArgs, choice: &Choice<'_>, elsewhere: bool) -> Option<String> {
    let local = args.local_only && !args.no_state && args.nodes.is_empty() && !elsewhere;
    let (_, cluster) = choice.entry().filter(|_| local)?;
    (!cluster.nodes.is_empty()).then(|| printable(&cluster.nodes.join(", ")))
}

/// The configured nodes, where certificates are needed and the settings name none.
async fn certificate_nodes(
    settings: &ConnectionSettings,
    choice: &Choice<'_>,
) -> Result<Vec<Arc<dyn Node>>, Failure> {
    let configured = choice.entry().is_some_and(|(_, cluster)| !cluster.nodes.is_empty());
    let given = settings.ca_file.is_some() || settings.cert_file.is_some();
    if !configured || given || !settings.endpoints.iter().any(Endpoint::is_tls) {
        return Ok(Vec::new());
    }
    nodes::each(choice, &[]).await
}

/// Prints what a backup did, and says how the command ends.
pub(super) fn tell(report: &BackupReport, output: &Output) -> Exit {
    let missing = report.state.as_ref().map_or(&[][..], |state| &state.missing);
    let exit = match exit(&report.proof) {
        Exit::Ok if !missing.is_empty() => Exit::Partial,
        exit => exit,
    };
    // From cron a backup that is proven says nothing, and any other one all.
    if exit != Exit::Ok || output.is_json() || !output.is_quiet() {
        output.result(report, || text(report));
    }
    for reason in &report.proof.reasons {
        let line = format!("  {}", printable(reason));
        if exit == Exit::Ok { output.note(&line) } else { output.complaint(&line) }
    }
    for node in missing {
        output.complaint(&format!(
            "  the state of {} was not stored: {}",
            printable(&node.node),
            printable(&node.why)
        ));
    }
    exit
}

fn exit(proof: &Proof) -> Exit {
    match proof.state {
        ProofState::Proven => Exit::Ok,
        ProofState::NotProven | ProofState::Unknown => Exit::Partial,
        ProofState::Mismatch => Exit::Corrupt,
    }
}

/// `01JD2Y6Q  prod  revision 480,213  1.19 GB → 252 MB  proven on 3 of 3 members  1.9 s`
fn text(report: &BackupReport) -> String {
    let same = report.members.iter().filter(|m| m.verdict == Verdict::Same).count();
    let proof = match report.proof.state {
        ProofState::Proven => {
            format!("proven on {}", of(same, report.members.len(), "member"))
        }
        ProofState::Mismatch => "DIFFERENT from what the cluster holds".to_owned(),
        ProofState::NotProven | ProofState::Unknown => "not proven".to_owned(),
    };
    let nodes = match &report.state {
        Some(state) => format!("  {}", super::human::plural(state.nodes.len(), "node")),
        None => String::new(),
    };
    format!(
        "{}  {}  revision {}  {} → {}  {proof}{nodes}  {}\n",
        report.id,
        report.cluster,
        count(report.revision),
        size(report.size),
        size(report.stored_size),
        duration(std::time::Duration::from_secs_f64(report.seconds)),
    )
}

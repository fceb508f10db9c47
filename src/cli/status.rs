//! `etcdvault status`.

use super::args::StatusArgs;
use super::exit_code::Exit;
use super::human::{count, printable, size};
use super::output::Output;
use super::settings::reach;
use super::table::{Align, Table};
use crate::config::Setup;
use crate::operation::Failure;
use crate::operation::status::{MemberRow, StatusReport, status};
use crate::operation::vocabulary::Connector;

pub(crate) async fn run(args: StatusArgs, output: &Output, setup: &Setup) -> Result<Exit, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let settings = reach(choice.connection(&args.connection.raw()).await?, output).await?;
    let connector = Connector::new(&settings)?;
    let report = output.waiting("asking the members", status(&connector, &settings)).await?;
    output.result(&report, || text(&report, output.width()));
    Ok(if report.complete() { Exit::Ok } else { Exit::Partial })
}

fn text(report: &StatusReport, width: Option<usize>) -> String {
    let mut table = Table::new(&[
        ("ENDPOINT", Align::Left, 0),
        ("NAME", Align::Left, 0),
        ("ID", Align::Left, 6),
        ("VERSION", Align::Left, 0),
        ("STORAGE", Align::Left, 8),
        ("DB SIZE", Align::Right, 0),
        ("IN USE", Align::Right, 3),
        ("QUOTA", Align::Right, 7),
        ("LEADER", Align::Left, 0),
        ("LEARNER", Align::Left, 5),
        ("TERM", Align::Right, 4),
        ("INDEX", Align::Right, 2),
        ("APPLIED", Align::Right, 1),
        ("ERRORS", Align::Left, 0),
    ]);
    for member in &report.members {
        table.row(row(member));
    }
    let mut text = table.render(width);
    text.push_str(&report.summary());
    text.push('\n');
    for advice in &report.advice {
        text.push_str(&format!("{}\n  hint: {}\n", printable(&advice.problem), advice.hint));
    }
    text
}

fn row(member: &MemberRow) -> Vec<String> {
    let none = || "-".to_owned();
    let yes = |value: bool| if value { "yes" } else { "no" }.to_owned();
    let mut row = vec![
        member.endpoint.clone().unwrap_or_else(none),
        member.name.as_deref().map_or_else(none, printable),
        member.member_id.map_or_else(none, |id| id.to_string()),
    ];
    match &member.status {
        Some(status) => {
            let used = if status.db_size > 0 && status.db_size_in_use > 0 {
                format!("{:.0} %", 100.0 * status.db_size_in_use as f64 / status.db_size as f64)
            } else {
                none()
            };
            let mut errors = status.errors.clone();
            if let Some(target) = &status.downgrade_to {
                errors.push(format!("downgrade to {target}"));
            }
            row.extend([
                printable(&status.version),
                status.storage_version.as_deref().map_or_else(none, printable),
                size(status.db_size),
                used,
                status.db_size_quota.map_or_else(none, size),
                yes(status.is_leader()),
                yes(status.is_learner),
                status.raft_term.to_string(),
                count(status.raft_index),
                count(status.raft_applied_index),
                errors.iter().map(|e| printable(e)).collect::<Vec<_>>().join("; "),
            ]);
        }
        None => {
            row.extend(std::iter::repeat_with(none).take(6));
            row.push(yes(member.is_learner));
            row.extend(std::iter::repeat_with(none).take(3));
            row.push(member.error.as_deref().map_or_else(none, printable));
        }
    }
    row
}

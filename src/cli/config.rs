//! `etcdvault config check` and `etcdvault config show`.

use super::args::{ConfigCheckArgs, ConfigShowArgs};
use super::exit_code::Exit;
use super::human::{plural, printable};
use super::output::Output;
use super::table::{Align, Table};
use crate::config::Setup;
use crate::config::check::{self, CheckReport, Verdict};
use crate::config::file;
use crate::config::origin::Effective;
use crate::config::setup::Shown;
use crate::operation::{Failure, FailureKind};

pub(crate) fn check(
    args: &ConfigCheckArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let named = args.file.as_ref().map(|file| Setup::new(setup.env().clone(), Some(file.clone())));
    let setup = named.as_ref().unwrap_or(setup);
    let Some(loaded) = setup.file()? else {
        let places = file::usual_places(setup.env());
        let places: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
        return Err(Failure::new(FailureKind::Usage, "there is no configuration")
            .detail(format!("looked for {}", places.join(" and ")))
            .hint("name one: etcdvault config check FILE"));
    };
    let report = check::check(loaded, setup.env());
    output.result(&report, || check_text(&report));
    Ok(if report.good() { Exit::Ok } else { Exit::Failed(FailureKind::Usage) })
}

fn check_text(report: &CheckReport) -> String {
    let mut table =
        Table::new(&[("", Align::Left, 0), ("SETTING", Align::Left, 0), ("FOUND", Align::Left, 0)]);
    for checked in &report.checked {
        let verdict = match checked.verdict {
            Verdict::Good => "ok",
            Verdict::Warning => "warning",
            Verdict::Bad => "BAD",
        };
        let line = checked.line.map_or_else(String::new, |line| format!(" (line {line})"));
        let what = format!("{}{line}", checked.what);
        table.row(vec![verdict.to_owned(), printable(&what), printable(&checked.found)]);
    }
    let count = |verdict| report.checked.iter().filter(|c| c.verdict == verdict).count();
    let mut text = table.render(None);
    text.push_str(&format!(
        "{}: {}, {}, {}; {} bad, {}\n",
        printable(&report.file.display().to_string()),
        plural(report.clusters, "cluster"),
        plural(report.nodes, "node"),
        plural(report.vaults, "vault"),
        count(Verdict::Bad),
        plural(count(Verdict::Warning), "warning"),
    ));
    text
}

pub(crate) fn show(args: &ConfigShowArgs, output: &Output, setup: &Setup) -> Result<Exit, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let shown = choice.show(&args.connection.raw(), &args.vault.raw(), &args.keys.raw());
    output.result(&shown, || show_text(&shown));
    Ok(Exit::Ok)
}

fn show_text(shown: &Shown) -> String {
    let mut table = Table::new(&[
        ("SETTING", Align::Left, 0),
        ("VALUE", Align::Left, 0),
        ("ORIGIN", Align::Left, 0),
    ]);
    let mut add = |setting: &Effective| {
        table.row(vec![
            printable(&setting.name),
            printable(&setting.value),
            printable(&setting.origin.to_string()),
        ]);
    };
    shown.cluster.iter().for_each(&mut add);
    shown.connection.iter().for_each(&mut add);
    shown.details.iter().for_each(&mut add);
    for setting in &shown.vault {
        let name = match setting.name.as_str() {
            "location" => "vault",
            name => name,
        };
        add(&Effective { name: name.to_owned(), ..setting.clone() });
    }
    let mut text = match &shown.file {
        Some(path) => format!("configuration {}\n", printable(&path.display().to_string())),
        None => "no configuration\n".to_owned(),
    };
    text.push_str(&table.render(None));
    for why in &shown.unknown {
        text.push_str(&format!("not known: {}\n", printable(why)));
    }
    text
}

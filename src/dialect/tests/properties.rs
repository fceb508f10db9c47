//! Properties over made-up texts.

use proptest::prelude::*;

use super::super::yaml::{Step, Yaml};
use super::super::*;

/// A value that any dialect must be able to hold.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9_./:,=@%+-]{1,40}",
        "[ -~]{0,30}",
        Just("http://10.0.0.1:2379,http://10.0.0.10:2379".to_owned()),
        Just("true".to_owned()),
        Just("0x1F".to_owned()),
        "[äöü€ \"'\\\\$`#;]{0,8}",
    ]
}

/// A line of an environment file as people write them.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        ("[A-C]", "[a-z0-9.:/,]{0,12}").prop_map(|(name, value)| format!("ETCD_{name}={value}")),
        ("[A-C]", "[ a-z0-9]{0,12}").prop_map(|(name, value)| format!("ETCD_{name}=\"{value}\"")),
        ("[A-C]", "[ a-z\"]{0,12}").prop_map(|(name, value)| format!("  ETCD_{name} = '{value}' ")),
        ("[A-C]", "[a-z]{0,5}").prop_map(|(name, value)| format!("ETCD_{name}={value}\\\n more")),
        "#[ a-zA-Z=\"]{0,20}",
        Just(String::new()),
        Just("#ETCD_A=\"default\"".to_owned()),
        Just("not an assignment".to_owned()),
    ]
}

fn text_of(lines: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (prop::collection::vec(lines, 0..12), any::<bool>(), any::<bool>()).prop_map(
        |(lines, last, crlf)| {
            let mut text = lines.join("\n");
            if last && !text.is_empty() {
                text.push('\n');
            }
            if crlf { text.replace('\n', "\r\n") } else { text }
        },
    )
}

/// Whether `new` is `old` with at most one stretch of bytes replaced, and that
/// stretch lies within some lines: all lines before and behind are the same.
fn lines_kept(old: &str, new: &str, most: usize) -> bool {
    let old: Vec<&str> = old.lines().collect();
    let new: Vec<&str> = new.lines().collect();
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b);
    let tail = tail.count();
    old.len() - head - tail <= most && new.len() - head - tail <= most
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read(text in any::<String>(), flags in "[ -~\n]{0,200}") {
        for text in [&text, &flags] {
            read_all(text);
        }
    }

    #[test]
    fn texts_like_real_ones_are_read(text in "([a-z\\[\\]{}&*!|>'\"%@`#:, \\\\$\n=-]|  |- |: |\\\\\n|--){0,60}") {
        read_all(&text);
        read_all(&format!("[Service]\nExecStart={text}"));
        read_all(&format!("kind: Pod\nspec: {text}"));
    }

    #[test]
    fn environment_reads_back(text in text_of(line()), value in value()) {
        let file = EnvFile::parse(&text).expect("small");
        let written = file.set("ETCD_A", &value);
        let new = match written {
            Ok(new) => new,
            Err(error) => {
                prop_assert!(matches!(error, EditError::Unsafe { .. }), "{error}");
                // Only files that end open, or joined comments, are refused.
                let reason = error.to_string();
                prop_assert!(reason.contains("ends inside") || reason.contains("comment"), "{reason}");
                return Ok(());
            }
        };
        prop_assert!(lines_kept(&text, &new, 2), "{new}");
        let read = EnvFile::parse(&new).expect("small");
        prop_assert_eq!(read.value("ETCD_A"), Some(value.as_str()));
        let again = read.set("ETCD_A", &value);
        prop_assert_eq!(again.as_deref(), Ok(new.as_str()), "the same value changes nothing");
        let comments = |text: &str| text.lines().filter(|l| l.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        prop_assert_eq!(comments(&text), comments(&new));
        let gone = read.remove("ETCD_A").expect("it is there");
        let left = EnvFile::parse(&gone).expect("small");
        prop_assert_eq!(left.value("ETCD_A"), None);
        prop_assert_eq!(left.value("ETCD_B"), file.value("ETCD_B"));
        if file.assignments().iter().all(|found| found.name != "ETCD_A") {
            prop_assert_eq!(gone, text, "added and removed");
        }
    }

    #[test]
    fn yaml_reads_back(value in value(), style in 0..4usize, indent in 0..3usize, comment in "( # [a-z]{0,9})?") {
        let old = ["plain", "'single'", "\"double\"", "5"][style];
        let text = format!("# head\na:\n{0}  x: 1{comment}\n{0}  name: {old}{comment}\n{0}  z: [1, 2]\nb:\n- one{comment}\n- {old}\n# tail\n", "  ".repeat(indent));
        let yaml = Yaml::parse(&text).expect("YAML");
        for path in [vec![Step::from("a"), "name".into()], vec!["b".into(), 1.into()], vec!["a".into(), "z".into(), 0.into()]] {
            let new = yaml.set(0, &path, &value, true).expect("an edit");
            prop_assert!(lines_kept(&text, &new, 1), "{new}");
            let read = Yaml::parse(&new).expect("YAML");
            let again = read.set(0, &path, &value, true);
            prop_assert_eq!(again.as_deref(), Ok(new.as_str()), "the same value changes nothing");
            prop_assert_eq!(new.matches('#').count(), text.matches('#').count() + value.matches('#').count() - if text.contains(old) { 0 } else { 1 });
        }
        let new = yaml.add_item(0, &["b".into()], 9, &value).expect("an edit");
        prop_assert!(lines_kept(&text, &new, 1));
        let back = Yaml::parse(&new).expect("YAML").remove(0, &["b".into(), 2.into()]);
        prop_assert_eq!(back.as_deref(), Ok(text.as_str()));
        let new = yaml.add_entry(0, &["a".into()], "new", &value, true).expect("an edit");
        let back = Yaml::parse(&new).expect("YAML").remove(0, &["a".into(), "new".into()]);
        prop_assert_eq!(back.as_deref(), Ok(text.as_str()));
    }

    #[test]
    fn unit_flags_read_back(
        flags in prop::collection::vec(("[a-d]", "[a-z0-9:/.,]{1,10}", 0..4usize), 1..8),
        flag in "[a-e]",
        value in "[a-zA-Z0-9_./:,=@%+-]{1,30}",
    ) {
        let mut text = "[Unit]\nDescription=x\n# kept\n[Service]\nExecStart=/usr/bin/etcd".to_owned();
        for (name, value, form) in &flags {
            text.push_str(&match form {
                0 => format!(" --flag-{name}={value}"),
                1 => format!(" --flag-{name} {value}"),
                2 => format!(" \\\n  --flag-{name}={value}"),
                _ => format!("\\\n  --flag-{name}={value}"),
            });
        }
        text.push_str("\nUser=etcd\n");
        let unit = UnitFile::parse("u", &text).expect("a unit");
        let name = format!("flag-{flag}");
        let new = match unit.set_flag(&name, &value) {
            Err(error) if value.starts_with('-') => {
                prop_assert!(error.to_string().contains("taken for a flag"), "{error}");
                return Ok(());
            }
            edited => edited.expect("an edit"),
        };
        prop_assert!(lines_kept(&text, &new, 2), "{new}");
        let settings = |text: &str| -> Vec<(String, String)> {
            let unit = UnitFile::parse("u", text).expect("a unit");
            let unit = Unit::merge(unit, vec![], Specifiers::default());
            let invocation = unit.invocation(&[]).expect("a command");
            let all = ApiServerSettings::of(&invocation);
            all.iter().map(|s| (s.name.clone(), s.value.clone())).collect()
        };
        let read = settings(&new);
        let last = read.iter().rfind(|(found, _)| *found == name).map(|(_, value)| value.as_str());
        prop_assert_eq!(last, Some(value.as_str()));
        let others = |all: Vec<(String, String)>| all.into_iter().filter(|(n, _)| *n != name).collect::<Vec<_>>();
        prop_assert_eq!(others(read), others(settings(&text)));
        let count = flags.iter().filter(|(found, ..)| *found == flag).count();
        let gone = UnitFile::parse("u", &new).expect("a unit").remove_flag(&name).expect("an edit");
        prop_assert_eq!(settings(&gone), others(settings(&text)));
        if count == 0 {
            prop_assert_eq!(gone, text, "added and removed");
        }
    }

    #[test]
    fn hosts(list in prop::collection::vec("10\\.0\\.0\\.[0-9]{1,2}", 1..5), from in "10\\.0\\.0\\.[0-9]{1,2}") {
        let urls: Vec<String> = list.iter().map(|host| format!("http://{host}:2379")).collect();
        let new = replace_host(&urls.join(","), &from, "new");
        let expected: Vec<String> = list.iter().map(|host| {
            format!("http://{}:2379", if *host == from { "new" } else { host.as_str() })
        }).collect();
        prop_assert_eq!(new, list.contains(&from).then(|| expected.join(",")));
    }
}

/// Every reader, and edits of what it read.
fn read_all(text: &str) {
    fuzz(text.as_bytes());
}
